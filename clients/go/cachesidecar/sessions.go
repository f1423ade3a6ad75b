package cachesidecar

import (
	"context"
	"errors"
	"iter"
	"maps"
	"time"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// Session is what the shop keeps about one browser or app between requests.
type Session struct {
	// SessionID is secret: whoever has it has the session. It is set by Create, Get, Rotate and the like, and empty in lists.
	SessionID string
	// UserID is empty until login.
	UserID     string
	Attributes map[string]string
	// Client is the browser or app, as seen by the shop.
	Client     SessionClient
	CreateTime time.Time
	UpdateTime time.Time
	// ExpireTime is when the session expires unless it is used before, EndTime when it ends however often it is used.
	ExpireTime time.Time
	EndTime    time.Time
	// Etag is the state that was read. An update with it fails if the session was changed since.
	Etag string
	// Cache is set by Get.
	Cache Cache
}

// SessionClient is the browser or app that uses a session.
type SessionClient struct {
	IPAddress string
	UserAgent string
}

// String leaves out the id, so that no log has it.
func (s *Session) String() string { return "session of user " + s.UserID }

// SessionService creates, uses and ends sessions.
type SessionService struct{ client *Client }

// Create creates a session with the user, attributes and client of the given one, and returns it with its id.
func (s *SessionService) Create(ctx context.Context, session Session, options ...WriteOption) (*Session, error) {
	settings := writeOf(options)
	request := &pb.CreateSessionRequest{
		UserId: session.UserID, Attributes: session.Attributes, Client: session.Client.proto(), RequestId: settings.requestID}
	reply, err := invoke[pb.CreateSessionResponse](
		ctx, s.client, write, pb.SessionService_CreateSession_FullMethodName, request, settings.callSettings)
	if err != nil {
		return nil, err
	}
	return sessionFrom(reply.Session, reply.SessionId, nil), nil
}

// Get returns a session and extends its expiry. Fails with NotFound if it does not exist or has ended.
func (s *SessionService) Get(ctx context.Context, sessionID string, options ...CallOption) (*Session, error) {
	request := &pb.GetSessionRequest{SessionId: sessionID}
	reply, err := invoke[pb.GetSessionResponse](
		ctx, s.client, read, pb.SessionService_GetSession_FullMethodName, request, callOf(options))
	if err != nil {
		return nil, err
	}
	return sessionFrom(reply.Session, sessionID, reply.Cache), nil
}

// Touch extends the expiry of a session. Of the session that it returns, only id, ExpireTime and Cache are set.
func (s *SessionService) Touch(ctx context.Context, sessionID string, options ...CallOption) (*Session, error) {
	request := &pb.TouchSessionRequest{SessionId: sessionID}
	reply, err := invoke[pb.TouchSessionResponse](
		ctx, s.client, read, pb.SessionService_TouchSession_FullMethodName, request, callOf(options))
	if err != nil {
		return nil, err
	}
	return &Session{SessionID: sessionID, ExpireTime: timeFrom(reply.ExpireTime), Cache: cacheFrom(reply.Cache)}, nil
}

// Update sets the fields of a session that are not empty, or those that Fields names; attributes are added to those that
// there are. Fails with NotFound, and with EtagMismatch if Etag is set and is not the current one.
func (s *SessionService) Update(ctx context.Context, session Session, options ...UpdateOption) (*Session, error) {
	settings := updateOf(options)
	request := &pb.UpdateSessionRequest{
		Session: session.proto(), UpdateMask: settings.mask, RequestId: settings.requestID}
	reply, err := invoke[pb.UpdateSessionResponse](
		ctx, s.client, write, pb.SessionService_UpdateSession_FullMethodName, request, settings.callSettings)
	if err != nil {
		return nil, err
	}
	return sessionFrom(reply.Session, session.SessionID, nil), nil
}

// Edit reads a session, has it changed, and writes what differs, unless someone else changed it meanwhile: then it begins
// again, until the context ends. An error of change ends it. If nothing was changed, nothing is written.
func (s *SessionService) Edit(
	ctx context.Context, sessionID string, change func(*Session) error, options ...CallOption,
) (*Session, error) {
	ctx, cancel := s.client.withDeadline(ctx, write, callOf(options).timeout)
	defer cancel()
	for {
		before, err := s.Get(ctx, sessionID)
		if err != nil {
			return nil, err
		}
		after := *before
		after.Attributes = maps.Clone(before.Attributes)
		if after.Attributes == nil {
			after.Attributes = map[string]string{}
		}
		if err := change(&after); err != nil {
			return nil, err
		}
		changed := before.differing(&after)
		if len(changed) == 0 {
			return before, nil
		}
		after.SessionID, after.Etag = sessionID, before.Etag
		updated, err := s.Update(ctx, after, Fields(changed...))
		if !errors.Is(err, EtagMismatch) {
			return updated, err
		}
	}
}

// Delete ends a session. isPending says that other sidecars may accept it until the relay has published its end. Fails with
// NotFound if it does not exist.
func (s *SessionService) Delete(
	ctx context.Context, sessionID string, options ...WriteOption,
) (isPending bool, err error) {
	settings := writeOf(options)
	request := &pb.DeleteSessionRequest{SessionId: sessionID, RequestId: settings.requestID}
	reply, err := invoke[pb.DeleteSessionResponse](
		ctx, s.client, write, pb.SessionService_DeleteSession_FullMethodName, request, settings.callSettings)
	if err != nil {
		return false, err
	}
	return reply.RevocationPending, nil
}

// Rotated is a session with a new id.
type Rotated struct {
	Session
	// RevocationPending says that other sidecars may accept the old id until the relay has published its end.
	RevocationPending bool
}

// Rotate gives a session a new id and ends the old one. Call it at every login. Fails with NotFound if it does not exist.
func (s *SessionService) Rotate(ctx context.Context, sessionID string, options ...WriteOption) (*Rotated, error) {
	settings := writeOf(options)
	request := &pb.RotateSessionRequest{SessionId: sessionID, RequestId: settings.requestID}
	reply, err := invoke[pb.RotateSessionResponse](
		ctx, s.client, write, pb.SessionService_RotateSession_FullMethodName, request, settings.callSettings)
	if err != nil {
		return nil, err
	}
	return &Rotated{*sessionFrom(reply.Session, reply.SessionId, nil), reply.RevocationPending}, nil
}

// SessionQuery says what List returns.
type SessionQuery struct {
	UserID string
	// PageSize is how many sessions are read at once, at most 1,000; 0 is 50.
	PageSize int
}

// List returns the sessions of a user, the newest first, without their ids. An error ends it.
func (s *SessionService) List(ctx context.Context, query SessionQuery, options ...CallOption) iter.Seq2[*Session, error] {
	settings := callOf(options)
	return pages(func(token string) ([]*Session, string, error) {
		size, err := int32From(query.PageSize, "PageSize")
		if err != nil {
			return nil, "", err
		}
		request := &pb.ListUserSessionsRequest{UserId: query.UserID, PageSize: size, PageToken: token}
		reply, err := invoke[pb.ListUserSessionsResponse](
			ctx, s.client, read, pb.SessionService_ListUserSessions_FullMethodName, request, settings)
		if err != nil {
			return nil, "", err
		}
		convert := func(one *pb.Session) *Session { return sessionFrom(one, "", nil) }
		return each(reply.Sessions, convert), reply.NextPageToken, nil
	})
}

// DeleteAll ends every session of a user, and returns how many. While their end cannot be published to Redis, the call is
// repeated; it fails with RevocationPending if that does not help in time.
func (s *SessionService) DeleteAll(ctx context.Context, userID string, options ...WriteOption) (int, error) {
	settings := writeOf(options)
	request := &pb.DeleteUserSessionsRequest{UserId: userID, RequestId: settings.requestID}
	reply, err := invoke[pb.DeleteUserSessionsResponse](
		ctx, s.client, write, pb.SessionService_DeleteUserSessions_FullMethodName, request, settings.callSettings)
	if err != nil {
		return 0, err
	}
	return int(reply.Deleted), nil
}

func sessionFrom(s *pb.Session, id string, cache *pb.CacheMetadata) *Session {
	return &Session{
		SessionID: id, UserID: s.GetUserId(), Attributes: s.GetAttributes(),
		Client:     SessionClient{IPAddress: s.GetClient().GetIpAddress(), UserAgent: s.GetClient().GetUserAgent()},
		CreateTime: timeFrom(s.GetCreateTime()), UpdateTime: timeFrom(s.GetUpdateTime()),
		ExpireTime: timeFrom(s.GetExpireTime()), EndTime: timeFrom(s.GetEndTime()),
		Etag: s.GetEtag(), Cache: cacheFrom(cache),
	}
}

func (s *Session) proto() *pb.Session {
	return &pb.Session{
		SessionId: s.SessionID, UserId: s.UserID, Attributes: s.Attributes, Client: s.Client.proto(), Etag: s.Etag}
}

// differing returns the names of the fields that an update has to set to turn a session into another.
func (s *Session) differing(other *Session) []string {
	var fields []string
	if s.UserID != other.UserID {
		fields = append(fields, "user_id")
	}
	if s.Client != other.Client {
		fields = append(fields, "client")
	}
	for key, value := range s.Attributes {
		if now, isThere := other.Attributes[key]; !isThere || now != value {
			fields = append(fields, "attributes."+key)
		}
	}
	for key := range other.Attributes {
		if _, wasThere := s.Attributes[key]; !wasThere {
			fields = append(fields, "attributes."+key)
		}
	}
	return fields
}

// proto returns nil for an unknown client.
func (c SessionClient) proto() *pb.SessionClient {
	if c == (SessionClient{}) {
		return nil
	}
	return &pb.SessionClient{IpAddress: c.IPAddress, UserAgent: c.UserAgent}
}
