package cachesidecar

import (
	"time"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Source is the tier that answered.
type Source = pb.Source

// The tiers. A reply of a fallback has none.
const (
	SourceL1    = pb.Source_SOURCE_L1
	SourceL2    = pb.Source_SOURCE_L2
	SourceStore = pb.Source_SOURCE_STORE
)

// Cache says where a reply comes from and how old it is.
type Cache struct {
	// Source is the tier of the sidecar that answered.
	Source Source
	// Version grows with every change of the resource.
	Version int64
	// Age is the time since the content was last known to match PostgreSQL: an upper bound.
	Age time.Duration
	// Stale is true if the reply may be older than the policy allows.
	Stale bool
	// Local is true if the reply comes from this process's own memory; see [WithL0].
	Local bool
	// Fallback is true if the reply comes from the application's own loader.
	Fallback bool
}

func cacheFrom(m *pb.CacheMetadata) Cache {
	return Cache{Source: m.GetSource(), Version: m.GetVersion(), Age: m.GetAge().AsDuration(), Stale: m.GetStale()}
}

// timeFrom returns the zero Time where none is set.
func timeFrom(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// timestamp returns nil for the zero Time.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}
