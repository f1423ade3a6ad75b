import type { MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import {
  AdminService,
  type DatasetPolicySchema,
  type GetPolicyResponseSchema,
  type GetStatsResponseSchema,
  type InspectKeyResponseSchema,
  type UpdatePolicyResponseSchema,
} from "../gen/cache_sidecar/v1/admin_service_pb.js";
import type { CallOptions, Transport } from "../transport.js";

const { method: methods } = AdminService;

/** For operators: messages as the protos describe them. Needs the role `read` or `admin`. */
export class AdminCalls {
  constructor(private readonly transport: Transport) {}

  /** Drops IDs of a dataset, or all of it, from the caches; returns how many. */
  async invalidate(dataset: string, what: { ids?: readonly string[]; all?: boolean }, options: CallOptions = {}): Promise<bigint> {
    const request = { dataset, ids: [...(what.ids ?? [])], all: what.all ?? false };
    return (await this.transport.unary(methods.invalidate, request, { timeout: 30_000, ...options })).invalidated;
  }

  async getStats(dataset = "", options: CallOptions = {}): Promise<MessageShape<typeof GetStatsResponseSchema>> {
    return this.transport.unary(methods.getStats, { dataset }, options);
  }

  async inspectKey(dataset: string, id: string, options: CallOptions = {}): Promise<MessageShape<typeof InspectKeyResponseSchema>> {
    return this.transport.unary(methods.inspectKey, { dataset, id }, options);
  }

  async getPolicy(options: CallOptions = {}): Promise<MessageShape<typeof GetPolicyResponseSchema>> {
    return this.transport.unary(methods.getPolicy, {}, options);
  }

  /** Overrides values in this sidecar, or resets those of `resetMask`. */
  async updatePolicy(
    policy: MessageInitShape<typeof DatasetPolicySchema>,
    { updateMask = [], resetMask = [], ...options }: { updateMask?: readonly string[]; resetMask?: readonly string[] } & CallOptions = {},
  ): Promise<MessageShape<typeof UpdatePolicyResponseSchema>> {
    const request = { policy, updateMask: { paths: [...updateMask] }, resetMask: { paths: [...resetMask] } };
    return this.transport.unary(methods.updatePolicy, request, { timeout: 30_000, ...options });
  }
}
