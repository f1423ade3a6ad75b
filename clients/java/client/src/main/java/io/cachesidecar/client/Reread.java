package io.cachesidecar.client;

import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.GeneralSecurityException;
import java.util.ArrayList;
import java.util.List;

/**
 * What is made of the content of files, made again when that has changed. Content that is of no use, as in the middle of a rotation,
 * changes nothing: the last that was stays, and one line in the log says so.
 */
final class Reread<T> {
  private static final System.Logger LOG = System.getLogger(CacheSidecar.class.getName());

  private final List<Path> files;
  private final Maker<T> maker;
  /** Of the files, also if nothing could be made of it: it is not tried again until it changes. */
  private List<ByteBuffer> content;
  private T current;
  private String problem = "";

  /** Throws if the content is of no use. */
  interface Maker<T> {
    T make(List<ByteBuffer> content) throws IOException, GeneralSecurityException;
  }

  /** Throws UncheckedIOException if a file cannot be read, IllegalArgumentException if the content is of no use. */
  Reread(List<Path> files, Maker<T> maker) {
    this.files = files;
    this.maker = maker;
    try {
      content = read();
      current = maker.make(content);
    } catch (IOException error) {
      throw new UncheckedIOException(error);
    } catch (GeneralSecurityException | IllegalArgumentException error) {
      throw new IllegalArgumentException(files + " cannot be used: " + error.getMessage(), error);
    }
  }

  /** Looks at the files. */
  synchronized T current() {
    try {
      List<ByteBuffer> now = read();
      if (now.equals(content)) return current;
      content = now;
      current = maker.make(now);
      problem = "";
    } catch (IOException | GeneralSecurityException | IllegalArgumentException error) {
      String before = problem;
      problem = error.toString();
      if (!problem.equals(before))
        LOG.log(System.Logger.Level.WARNING, "{0} changed and cannot be used, what was read before stays: {1}", files, problem);
    }
    return current;
  }

  private List<ByteBuffer> read() throws IOException {
    List<ByteBuffer> read = new ArrayList<>();
    for (Path file : files) read.add(ByteBuffer.wrap(Files.readAllBytes(file)));
    return read;
  }
}
