/**
 * Reads a product for each line that it reads, and prints what came of it, while the TLS files are replaced that its environment
 * names; see `tests/clients/test_rotation.py`.
 */
import { createInterface } from "node:readline";

import { connect, SidecarError } from "../src/index.js";

const { CONFORMANCE_ADDRESS: address, CONFORMANCE_CA: ca, CONFORMANCE_CERT: cert, CONFORMANCE_KEY: key } = process.env as Record<string, string>;
const shop = connect({ address: address!, tls: { ca: ca!, cert: cert!, key: key! } });
for await (const _ of createInterface({ input: process.stdin })) {
  try {
    // Longer than any connection takes on a busy machine.
    await shop.products.get("none", { timeout: 120_000 });
  } catch (error) {
    console.log(error instanceof SidecarError ? error.reason || error.message : String(error));
  }
}
shop.close();
