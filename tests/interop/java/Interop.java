package io.grpc.testing.integration;

import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannelBuilder;
import io.grpc.TlsChannelCredentials;
import java.io.File;
import java.io.IOException;
import java.io.UncheckedIOException;

/**
 * Runs cases of grpc-java's interop suite: {@code Interop TARGET CASE...}, where the target is what {@code
 * Grpc.newChannelBuilder} takes, and a case is a method of the suite. Prints a line for each, and goes on after one that fails.
 *
 * <p>grpc-java's own command line cannot name a unix socket.
 */
public final class Interop extends AbstractInteropTest {
  private final String target;

  private Interop(String target) {
    this.target = target;
  }

  @Override
  protected ManagedChannelBuilder<?> createChannelBuilder() {
    return Grpc.newChannelBuilder(target, credentials()).maxInboundMessageSize(AbstractInteropTest.MAX_MESSAGE_SIZE);
  }

  /** TLS with what the property {@code ca} names, or none. */
  private static ChannelCredentials credentials() {
    String ca = System.getProperty("ca");
    try {
      return ca == null
          ? InsecureChannelCredentials.create()
          : TlsChannelCredentials.newBuilder().trustManager(new File(ca)).build();
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    }
  }

  /** The server is another process, in which the suite cannot count. */
  @Override
  protected boolean metricsExpected() {
    return false;
  }

  private static void run(Interop suite, String name) throws ReflectiveOperationException {
    for (var method : AbstractInteropTest.class.getMethods()) {
      if (method.getName().equals(name)) {
        // Compressed requests come with a choice: whether to ask first what a server makes of one that is not.
        method.invoke(suite, method.getParameterCount() == 0 ? new Object[0] : new Object[] {false});
        return;
      }
    }
    throw new NoSuchMethodException(name);
  }

  public static void main(String[] args) {
    boolean failed = false;
    for (int at = 1; at < args.length; at++) {
      Interop suite = new Interop(args[0]);
      suite.setUp();
      try {
        run(suite, args[at]);
        System.out.println("ok " + args[at]);
      } catch (ReflectiveOperationException error) {
        failed = true;
        System.out.println("FAILED " + args[at]);
        (error.getCause() == null ? error : error.getCause()).printStackTrace(System.out);
      } finally {
        suite.tearDown();
      }
    }
    System.exit(failed ? 1 : 0);
  }
}
