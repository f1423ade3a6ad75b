"""The descriptor pool of these stubs.

It is not the default pool, so that an application may have other stubs of the same messages: another version of google/rpc, of
the googleapis-common-protos that its other libraries need, or the server's own package.
"""

from google.protobuf import any_pb2, descriptor_pool, duration_pb2, field_mask_pb2, timestamp_pb2

POOL = descriptor_pool.DescriptorPool()
for _module in (any_pb2, duration_pb2, field_mask_pb2, timestamp_pb2):
    POOL.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)
