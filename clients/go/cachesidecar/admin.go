package cachesidecar

import (
	"context"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// AdminService is for operators, and for tests of applications. Its requests and replies are the messages themselves.
type AdminService struct{ client *Client }

// Invalidate drops entries of a dataset, or all of them, from every cache.
func (s *AdminService) Invalidate(
	ctx context.Context, request *pb.InvalidateRequest, options ...CallOption,
) (*pb.InvalidateResponse, error) {
	return invoke[pb.InvalidateResponse](
		ctx, s.client, admin, pb.AdminService_Invalidate_FullMethodName, request, callOf(options))
}

// GetStats returns counters, and what is degraded.
func (s *AdminService) GetStats(
	ctx context.Context, request *pb.GetStatsRequest, options ...CallOption,
) (*pb.GetStatsResponse, error) {
	return invoke[pb.GetStatsResponse](
		ctx, s.client, read, pb.AdminService_GetStats_FullMethodName, request, callOf(options))
}

// InspectKey returns what each tier holds of an id.
func (s *AdminService) InspectKey(
	ctx context.Context, request *pb.InspectKeyRequest, options ...CallOption,
) (*pb.InspectKeyResponse, error) {
	return invoke[pb.InspectKeyResponse](
		ctx, s.client, read, pb.AdminService_InspectKey_FullMethodName, request, callOf(options))
}

// GetPolicy returns the policy in effect.
func (s *AdminService) GetPolicy(
	ctx context.Context, request *pb.GetPolicyRequest, options ...CallOption,
) (*pb.GetPolicyResponse, error) {
	return invoke[pb.GetPolicyResponse](
		ctx, s.client, read, pb.AdminService_GetPolicy_FullMethodName, request, callOf(options))
}

// UpdatePolicy overrides the policy of a dataset until the sidecar restarts.
func (s *AdminService) UpdatePolicy(
	ctx context.Context, request *pb.UpdatePolicyRequest, options ...CallOption,
) (*pb.UpdatePolicyResponse, error) {
	return invoke[pb.UpdatePolicyResponse](
		ctx, s.client, admin, pb.AdminService_UpdatePolicy_FullMethodName, request, callOf(options))
}
