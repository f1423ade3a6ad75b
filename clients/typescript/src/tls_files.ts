/** The TLS files of a client, which are read again when they change. */
import { readFileSync, statSync } from "node:fs";
import { createSecureContext } from "node:tls";
import type { experimental } from "@grpc/grpc-js";

/** Milliseconds between two looks at the files. */
const LOOK_EVERY = 1_000;

interface Contents {
  ca: Buffer;
  cert?: Buffer;
  key?: Buffer;
}

type CaListener = experimental.CaCertificateUpdateListener;
type IdentityListener = experimental.IdentityCertificateUpdateListener;

/**
 * Tells gRPC of the files as they were when they were last whole and belonged together: grpc-js's own watcher hands on what it
 * finds, and nothing where a file cannot be read, so that the next connection fails.
 */
export class TlsFiles implements experimental.CertificateProvider {
  #contents: Contents;
  #seen: string;
  #isBad = false;
  #timer: NodeJS.Timeout | undefined;
  readonly #caListeners = new Set<CaListener>();
  readonly #identityListeners = new Set<IdentityListener>();

  /** Throws an error that names a file which is missing, or is not what it should be. */
  constructor(
    private readonly files: { readonly ca: string; readonly cert?: string | undefined; readonly key?: string | undefined },
    private readonly log: (line: string) => void = console.warn,
  ) {
    this.#seen = this.#signature();
    this.#contents = this.#read();
  }

  /** Reads the files again if they have changed. What cannot be used is ignored until it can; that is logged once. */
  look(): void {
    try {
      // From before the contents are read: if they change meanwhile, they are read again at the next look.
      const signature = this.#signature();
      if (signature !== this.#seen) {
        this.#contents = this.#read();
        this.#seen = signature;
        for (const listener of this.#caListeners) this.#tellCa(listener);
        for (const listener of this.#identityListeners) this.#tellIdentity(listener);
      }
      this.#isBad = false;
    } catch (error) {
      if (!this.#isBad) this.log(`the changed TLS files are ignored, those from before stay in use: ${(error as Error).message}`);
      this.#isBad = true;
    }
  }

  addCaCertificateListener(listener: CaListener): void {
    this.#caListeners.add(listener);
    this.#watch();
    this.#tellCa(listener);
  }

  removeCaCertificateListener(listener: CaListener): void {
    this.#caListeners.delete(listener);
    this.#watch();
  }

  addIdentityCertificateListener(listener: IdentityListener): void {
    this.#identityListeners.add(listener);
    this.#watch();
    this.#tellIdentity(listener);
  }

  removeIdentityCertificateListener(listener: IdentityListener): void {
    this.#identityListeners.delete(listener);
    this.#watch();
  }

  /** Looks at the files as long as somebody listens: until the client is closed. */
  #watch(): void {
    clearInterval(this.#timer);
    if (this.#caListeners.size + this.#identityListeners.size > 0) this.#timer = setInterval(() => this.look(), LOOK_EVERY).unref();
  }

  #tellCa(listener: CaListener): void {
    listener({ caCertificate: this.#contents.ca });
  }

  #tellIdentity(listener: IdentityListener): void {
    const { cert, key } = this.#contents;
    listener(cert === undefined || key === undefined ? null : { certificate: cert, privateKey: key });
  }

  #read(): Contents {
    const { ca, cert, key } = this.files;
    const contents: Contents = { ca: readFileSync(ca) };
    // Node.js takes a file of CAs as far as it is good.
    if (!isWhole(contents.ca)) throw new Error(`${ca} has no whole certificates in PEM`);
    try {
      createSecureContext({ ca: contents.ca });
    } catch (error) {
      throw new Error(`${ca} has no whole certificates in PEM: ${(error as Error).message}`);
    }
    if (cert === undefined || key === undefined) return contents;
    contents.cert = readFileSync(cert);
    contents.key = readFileSync(key);
    try {
      if (!isWhole(contents.cert)) throw new Error("the certificate is not whole");
      createSecureContext(contents);
    } catch (error) {
      throw new Error(`${cert} and ${key} are not a certificate and its key in PEM: ${(error as Error).message}`);
    }
    return contents;
  }

  #signature(): string {
    const { ca, cert, key } = this.files;
    const parts = [ca, cert, key].map((file) => {
      if (file === undefined) return "";
      const { mtimeNs, ino, size } = statSync(file, { bigint: true });
      return `${mtimeNs} ${ino} ${size}`;
    });
    return parts.join("\n");
  }
}

/** Whether each certificate that begins also ends, and there is one. */
function isWhole(pem: Buffer): boolean {
  const text = pem.toString("latin1");
  const count = (word: string) => text.split(`-----${word} `).length - 1;
  return count("BEGIN") > 0 && count("BEGIN") === count("END");
}
