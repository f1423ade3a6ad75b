package io.cachesidecar.client;

import io.grpc.ChannelCredentials;
import io.grpc.TlsChannelCredentials;
import io.grpc.util.CertificateUtils;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.net.Socket;
import java.nio.ByteBuffer;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.security.KeyStore;
import java.security.Principal;
import java.security.PrivateKey;
import java.security.Signature;
import java.security.cert.CertificateException;
import java.security.cert.X509Certificate;
import java.util.List;
import javax.net.ssl.SSLEngine;
import javax.net.ssl.TrustManager;
import javax.net.ssl.TrustManagerFactory;
import javax.net.ssl.X509ExtendedKeyManager;
import javax.net.ssl.X509ExtendedTrustManager;

/** The CAs and the client's own certificate, as they are in their files when a connection is made: renewed ones need no restart. */
final class TlsFiles {
  private TlsFiles() {}

  /** Throws UncheckedIOException if a file cannot be read, IllegalArgumentException if it is of no use. */
  static ChannelCredentials credentials(Options options) {
    var credentials = TlsChannelCredentials.newBuilder().trustManager(new Trust(options.ca));
    if (options.cert != null) credentials.keyManager(new Identities(options.cert, options.key));
    return credentials.build();
  }

  private static X509Certificate[] certificates(ByteBuffer pem) throws CertificateException {
    X509Certificate[] found = CertificateUtils.getX509Certificates(stream(pem));
    if (found.length == 0) throw new CertificateException("there is no certificate in PEM");
    return found;
  }

  private static InputStream stream(ByteBuffer content) {
    return new ByteArrayInputStream(content.array());
  }

  /** Trusts the CAs of a file. */
  private static final class Trust extends X509ExtendedTrustManager {
    private final Reread<X509ExtendedTrustManager> file;

    Trust(Path ca) {
      file = new Reread<>(List.of(ca), content -> of(certificates(content.get(0))));
    }

    private static X509ExtendedTrustManager of(X509Certificate[] authorities) throws IOException, GeneralSecurityException {
      KeyStore store = KeyStore.getInstance(KeyStore.getDefaultType());
      store.load(null, null);
      for (int index = 0; index < authorities.length; index++) store.setCertificateEntry("ca-" + index, authorities[index]);
      TrustManagerFactory factory = TrustManagerFactory.getInstance(TrustManagerFactory.getDefaultAlgorithm());
      factory.init(store);
      for (TrustManager manager : factory.getTrustManagers())
        if (manager instanceof X509ExtendedTrustManager found) return found;
      throw new GeneralSecurityException("this Java checks no names in certificates");
    }

    @Override
    public void checkServerTrusted(X509Certificate[] chain, String type, SSLEngine engine) throws CertificateException {
      file.current().checkServerTrusted(chain, type, engine);
    }

    @Override
    public void checkServerTrusted(X509Certificate[] chain, String type, Socket socket) throws CertificateException {
      file.current().checkServerTrusted(chain, type, socket);
    }

    @Override
    public void checkServerTrusted(X509Certificate[] chain, String type) throws CertificateException {
      file.current().checkServerTrusted(chain, type);
    }

    @Override
    public X509Certificate[] getAcceptedIssuers() {
      return file.current().getAcceptedIssuers();
    }

    @Override
    public void checkClientTrusted(X509Certificate[] chain, String type, SSLEngine engine) throws CertificateException {
      throw new CertificateException("this is a client");
    }

    @Override
    public void checkClientTrusted(X509Certificate[] chain, String type, Socket socket) throws CertificateException {
      throw new CertificateException("this is a client");
    }

    @Override
    public void checkClientTrusted(X509Certificate[] chain, String type) throws CertificateException {
      throw new CertificateException("this is a client");
    }
  }

  private record Identity(X509Certificate[] chain, PrivateKey key) {
    static Identity of(ByteBuffer cert, ByteBuffer key) throws IOException, GeneralSecurityException {
      Identity made = new Identity(certificates(cert), CertificateUtils.getPrivateKey(stream(key)));
      byte[] text = {1, 2, 3};
      Signature signature = Signature.getInstance(made.key.getAlgorithm().equals("EC") ? "SHA256withECDSA" : "SHA256withRSA");
      signature.initSign(made.key);
      signature.update(text);
      byte[] signed = signature.sign();
      signature.initVerify(made.chain[0]);
      signature.update(text);
      // Between the replacement of one file and that of the other they do not.
      if (!signature.verify(signed)) throw new CertificateException("the certificate and the key do not belong together");
      return made;
    }
  }

  /** Presents the certificate of a file. */
  private static final class Identities extends X509ExtendedKeyManager {
    private final Reread<Identity> files;
    private Identity current;
    private Identity previous;
    /** That of the current one; it counts upwards. */
    private int alias;

    Identities(Path cert, Path key) {
      files = new Reread<>(List.of(cert, key), content -> Identity.of(content.get(0), content.get(1)));
      current = files.current();
      previous = current;
    }

    /** Begins a handshake. */
    @Override
    public synchronized String chooseClientAlias(String[] types, Principal[] issuers, Socket socket) {
      Identity now = files.current();
      if (now != current) {
        previous = current;
        current = now;
        alias++;
      }
      return String.valueOf(alias);
    }

    @Override
    public String chooseEngineClientAlias(String[] types, Principal[] issuers, SSLEngine engine) {
      return chooseClientAlias(types, issuers, null);
    }

    /** A handshake that began before another one found new files has to end with the certificate and the key of the old ones. */
    private synchronized Identity of(String chosen) {
      return chosen.equals(String.valueOf(alias)) ? current : previous;
    }

    @Override
    public X509Certificate[] getCertificateChain(String chosen) {
      return of(chosen).chain;
    }

    @Override
    public PrivateKey getPrivateKey(String chosen) {
      return of(chosen).key;
    }

    @Override
    public String[] getClientAliases(String type, Principal[] issuers) {
      return new String[] {chooseClientAlias(null, issuers, null)};
    }

    @Override
    public String[] getServerAliases(String type, Principal[] issuers) {
      return null;
    }

    @Override
    public String chooseServerAlias(String type, Principal[] issuers, Socket socket) {
      return null;
    }
  }
}
