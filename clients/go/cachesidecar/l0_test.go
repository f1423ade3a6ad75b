package cachesidecar

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// openL0 returns an l0 that is fed and whose heartbeat counts.
func openL0(maxEntries int, maxAge time.Duration) *l0 {
	l := newL0(maxEntries, maxAge, &counters{})
	l.begin()
	l.renew(time.Now().Add(time.Hour))
	return l
}

func versionOf(id string, version int64) *Product {
	return &Product{ProductID: id, Cache: Cache{Version: version, Source: SourceL1, Age: time.Millisecond}}
}

func TestL0AnswersUntilAChange(t *testing.T) {
	l := openL0(10, time.Hour)
	asked := time.Now()
	l.put(versionOf("mug", 1), asked)
	found := l.get("mug", nil)
	if found == nil || !found.Cache.Local || found.Cache.Version != 1 || found.Cache.Age <= time.Millisecond {
		t.Fatalf("%+v", found)
	}
	l.change("cup", 2)
	if l.get("mug", nil) == nil {
		t.Error("another product's change drops nothing")
	}
	l.change("mug", 2)
	if found := l.get("mug", nil); found != nil {
		t.Errorf("%+v", found)
	}
	if l.counters.l0Hits.Load() != 2 || l.counters.l0Misses.Load() != 1 {
		t.Error("hits and misses are not counted")
	}
}

func TestL0RefusesAReplyThatAChangeHasOvertaken(t *testing.T) {
	l := openL0(10, time.Hour)
	asked := time.Now()
	l.change("mug", 2)
	l.put(versionOf("mug", 1), asked)
	if l.get("mug", nil) != nil {
		t.Error("kept what is older than a change")
	}
	// The sidecar's memory may not know of the change yet when it is asked after it.
	l.put(versionOf("mug", 1), time.Now())
	if l.get("mug", nil) != nil {
		t.Error("kept what the sidecar had not dropped yet")
	}
	l.put(versionOf("mug", 2), time.Now())
	if l.get("mug", nil) == nil {
		t.Error("the change's own version is the newest")
	}
	l.put(versionOf("mug", 1), time.Now())
	if found := l.get("mug", nil); found == nil || found.Cache.Version != 2 {
		t.Error("an older reply has replaced a newer one")
	}
}

func TestL0IsEmptyWhileTheWatchIsBroken(t *testing.T) {
	l := openL0(10, time.Hour)
	asked := time.Now()
	l.put(versionOf("mug", 1), asked)
	l.end()
	if l.get("mug", nil) != nil || l.len() != 0 {
		t.Error("kept something without a watch")
	}
	l.put(versionOf("mug", 1), asked)
	if l.len() != 0 {
		t.Error("stored something without a watch")
	}
	l.begin()
	l.put(versionOf("mug", 1), asked)
	if l.len() != 0 {
		t.Error("stored a reply from before the watch began")
	}
	l.put(versionOf("mug", 1), time.Now())
	if l.get("mug", nil) == nil {
		t.Error("stores nothing although it is fed")
	}
}

func TestL0AnswersOnlyWhileTheSidecarIsThere(t *testing.T) {
	l := openL0(10, time.Hour)
	l.put(versionOf("mug", 1), time.Now())
	l.renew(time.Now().Add(-time.Nanosecond))
	if l.get("mug", nil) != nil {
		t.Error("answered although the sidecar does not")
	}
	l.renew(time.Now().Add(time.Hour))
	if l.get("mug", nil) == nil {
		t.Error("the watch has told of all changes nevertheless")
	}
}

func TestL0IsBounded(t *testing.T) {
	l := openL0(3, time.Minute)
	for i := range 4 {
		l.put(versionOf(fmt.Sprint(i), 1), time.Now())
		l.get("0", nil)
	}
	if l.len() != 3 || l.get("0", nil) == nil || l.get("1", nil) != nil {
		t.Error("the least recently used one has to go")
	}
	old := versionOf("old", 1)
	l.put(old, time.Now())
	l.entries["old"].Value.(*l0Entry).asked = time.Now().Add(-2 * time.Minute)
	if l.get("old", nil) != nil {
		t.Error("older than maxAge")
	}
}

func TestL0KeepsNothingStale(t *testing.T) {
	l := openL0(10, time.Hour)
	stale, own := versionOf("a", 1), versionOf("b", 1)
	stale.Cache.Stale, own.Cache.Fallback = true, true
	l.put(stale, time.Now())
	l.put(own, time.Now())
	l.put(versionOf("slow", 1), time.Now().Add(-changesKept))
	if l.len() != 0 {
		t.Error("kept what may be older than it says")
	}
}

func TestL0HonoursWhatAReadDemands(t *testing.T) {
	l := openL0(10, time.Hour)
	l.put(versionOf("mug", 1), time.Now())
	if l.get("mug", &pb.ReadOptions{Bypass: true}) != nil {
		t.Error("bypass")
	}
	if l.get("mug", &pb.ReadOptions{MaxAge: durationpb.New(time.Nanosecond)}) != nil {
		t.Error("older than max_age")
	}
	if l.get("mug", &pb.ReadOptions{MaxAge: durationpb.New(time.Hour)}) == nil {
		t.Error("young enough")
	}
}

func TestL0ForgetsEverythingWhenTooMuchChanges(t *testing.T) {
	l := openL0(3, time.Hour)
	l.put(versionOf("mug", 1), time.Now())
	for i := range 1001 {
		l.change(fmt.Sprint(i), 2)
	}
	l.put(versionOf("0", 1), time.Now())
	if l.len() != 0 {
		t.Error("the versions of that many changes are not remembered")
	}
}

func TestL0ForgetsWhatThisProcessWrote(t *testing.T) {
	l := openL0(3, time.Hour)
	l.put(versionOf("mug", 10), time.Now())
	l.wrote("mug", "b")
	l.put(versionOf("mug", 10), time.Now())
	if l.get("mug", nil) != nil {
		t.Error("does not read its own write")
	}
	l.put(versionOf("mug", 11), time.Now())
	if l.get("mug", nil) == nil {
		t.Error("this is what it wrote")
	}
	l.wrote("mug", "") // deleted
	l.put(versionOf("mug", 11), time.Now())
	if l.get("mug", nil) != nil {
		t.Error("it was deleted")
	}
}

func TestL0IsFedByTheWatchOfTheCatalogue(t *testing.T) {
	version := int64(1)
	change, broken := make(chan int64), make(chan struct{})
	s := serve(t, &scripted{
		get: func(int, *pb.GetProductRequest) (*pb.GetProductResponse, error) { return mug(version), nil },
		watch: func(n int, _ *pb.WatchProductsRequest, stream pb.ProductService_WatchProductsServer) error {
			if n == 2 {
				<-broken
			}
			started(stream, 1)
			for {
				select {
				case v := <-change:
					if v == 0 {
						return fails(codes.Unavailable, Draining, nil)
					}
					sendChange(stream, ChangeUpdated, v)
				case <-stream.Context().Done():
					return nil
				}
			}
		},
	})
	client := dial(t, s, WithL0(10, time.Hour))
	local := func() bool {
		product, err := client.Products.Get(patient(t), "mug")
		return err == nil && product.Cache.Local
	}
	until(t, local)
	version = 2
	change <- 2
	until(t, func() bool {
		product, err := client.Products.Get(patient(t), "mug")
		return err == nil && product.Cache.Version == 2 && product.Cache.Local
	})
	change <- 0
	until(t, func() bool { return client.Stats().L0Entries == 0 })
	if local() || local() {
		t.Error("answered without a watch")
	}
	close(broken)
	until(t, local)
}
