package io.cachesidecar.client;

import io.grpc.Status;
import java.time.Duration;

/**
 * What a call was, once it has ended.
 *
 * @param method such as {@code ProductService/GetProduct}
 * @param time with all attempts and pauses
 */
public record CallInfo(String method, Duration time, int attempts, Status.Code code) {}
