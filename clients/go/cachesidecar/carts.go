package cachesidecar

import (
	"context"
	"iter"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// Cart is a user's shopping cart. One that was never written is empty.
type Cart struct {
	UserID string
	// Items are in the order in which they were first added.
	Items []CartItem
	// Totals are the exact sums of the prices, one for each currency.
	Totals     []Money
	CreateTime time.Time
	UpdateTime time.Time
	// Etag is the state that was read. A replacement with it fails if the cart was changed since.
	Etag string
	// CataloguePrices are set by changes: the prices of items that were sent without one, one for each product.
	CataloguePrices []CataloguePrice
	// Cache is set by reads.
	Cache Cache
}

// CataloguePrice is a price that was read from the catalogue, for items that were sent without one.
type CataloguePrice struct {
	ProductID string
	UnitPrice Money
	// ProductEtag is the state of the product with this price.
	ProductEtag string
}

// CartItem is a number of pieces of one product in a cart.
type CartItem struct {
	ProductID string
	Quantity  int32
	// UnitPrice is the price per piece. An item that is sent without one gets that of the catalogue; the call fails with
	// NotFound if the catalogue has no such product, or it is not active.
	UnitPrice Money
	// Options distinguish items of one product, such as size or colour.
	Options map[string]string
}

// CartService reads and changes carts.
type CartService struct{ client *Client }

// Get returns the cart of a user.
func (s *CartService) Get(ctx context.Context, userID string, options ...ReadOption) (*Cart, error) {
	settings := readOf(options)
	return withFallback(ctx, s.client, settings, pb.CartService_GetCart_FullMethodName,
		func(ctx context.Context) (*Cart, error) {
			request := &pb.GetCartRequest{UserId: userID, Options: settings.options}
			reply, err := invoke[pb.GetCartResponse](
				ctx, s.client, read, pb.CartService_GetCart_FullMethodName, request, settings.callSettings)
			if err != nil {
				return nil, err
			}
			return cartFrom(reply.Cart, reply.Cache), nil
		})
}

// Replace replaces all items of a user's cart; totals and times are ignored. Fails with EtagMismatch if Etag is set and is not
// the current one; the error has the current cart.
func (s *CartService) Replace(ctx context.Context, cart Cart, options ...WriteOption) (*Cart, error) {
	settings := writeOf(options)
	request := &pb.ReplaceCartRequest{
		Cart:      &pb.Cart{UserId: cart.UserID, Items: each(cart.Items, CartItem.proto), Etag: cart.Etag},
		RequestId: settings.requestID,
	}
	reply, err := invoke[pb.ReplaceCartResponse](
		ctx, s.client, write, pb.CartService_ReplaceCart_FullMethodName, request, settings.callSettings)
	return cartOf(reply, err)
}

// Add adds pieces of a product: to the item with the same product and options, if there is one.
func (s *CartService) Add(ctx context.Context, userID string, item CartItem, options ...WriteOption) (*Cart, error) {
	settings := writeOf(options)
	request := &pb.AddCartItemRequest{UserId: userID, Item: item.proto(), RequestId: settings.requestID}
	reply, err := invoke[pb.AddCartItemResponse](
		ctx, s.client, write, pb.CartService_AddCartItem_FullMethodName, request, settings.callSettings)
	return cartOf(reply, err)
}

// SetQuantity sets how many pieces the item with the same product and options has; 0 removes it. Its price stays. Fails with
// NotFound if the cart has no such item.
func (s *CartService) SetQuantity(ctx context.Context, userID string, item CartItem, options ...WriteOption) (*Cart, error) {
	settings := writeOf(options)
	request := &pb.SetCartItemQuantityRequest{
		UserId: userID, ProductId: item.ProductID, Options: item.Options, Quantity: item.Quantity,
		RequestId: settings.requestID,
	}
	reply, err := invoke[pb.SetCartItemQuantityResponse](
		ctx, s.client, write, pb.CartService_SetCartItemQuantity_FullMethodName, request, settings.callSettings)
	return cartOf(reply, err)
}

// Remove removes the item with the same product and options, if there is one.
func (s *CartService) Remove(ctx context.Context, userID string, item CartItem, options ...WriteOption) (*Cart, error) {
	settings := writeOf(options)
	request := &pb.RemoveCartItemRequest{
		UserId: userID, ProductId: item.ProductID, Options: item.Options, RequestId: settings.requestID}
	reply, err := invoke[pb.RemoveCartItemResponse](
		ctx, s.client, write, pb.CartService_RemoveCartItem_FullMethodName, request, settings.callSettings)
	return cartOf(reply, err)
}

// Clear removes all items.
func (s *CartService) Clear(ctx context.Context, userID string, options ...WriteOption) (*Cart, error) {
	settings := writeOf(options)
	request := &pb.ClearCartRequest{UserId: userID, RequestId: settings.requestID}
	reply, err := invoke[pb.ClearCartResponse](
		ctx, s.client, write, pb.CartService_ClearCart_FullMethodName, request, settings.callSettings)
	return cartOf(reply, err)
}

// Merge moves every item of a guest's cart to a user's. Call it at login.
func (s *CartService) Merge(ctx context.Context, userID, guestUserID string, options ...WriteOption) (*Cart, error) {
	settings := writeOf(options)
	request := &pb.MergeCartsRequest{UserId: userID, GuestUserId: guestUserID, RequestId: settings.requestID}
	reply, err := invoke[pb.MergeCartsResponse](
		ctx, s.client, write, pb.CartService_MergeCarts_FullMethodName, request, settings.callSettings)
	return cartOf(reply, err)
}

// CartEdit collects changes of a cart.
type CartEdit struct{ changes []*pb.CartChange }

// Add adds pieces of a product, as CartService.Add does.
func (e *CartEdit) Add(item CartItem) {
	e.changes = append(e.changes, &pb.CartChange{Change: &pb.CartChange_AddItem{AddItem: item.proto()}})
}

// SetQuantity sets the quantity of an item, as CartService.SetQuantity does.
func (e *CartEdit) SetQuantity(item CartItem) {
	set := &pb.CartChange_SetItemQuantity{ProductId: item.ProductID, Options: item.Options, Quantity: item.Quantity}
	e.changes = append(e.changes, &pb.CartChange{Change: &pb.CartChange_SetItemQuantity_{SetItemQuantity: set}})
}

// Remove removes an item, as CartService.Remove does.
func (e *CartEdit) Remove(item CartItem) {
	remove := &pb.CartChange_RemoveItem{ProductId: item.ProductID, Options: item.Options}
	e.changes = append(e.changes, &pb.CartChange{Change: &pb.CartChange_RemoveItem_{RemoveItem: remove}})
}

// Edit makes all changes that a function collects, at most 100, in one call: all of them or none. An error of the function
// is returned, and nothing is changed. Without changes, nothing is written, and the cart is nil.
//
//	shop.Carts.Edit(ctx, user, func(c *cachesidecar.CartEdit) error {
//		c.Add(cachesidecar.CartItem{ProductID: "SKU-1", Quantity: 2, UnitPrice: cachesidecar.MustMoney("9.99", "EUR")})
//		c.Remove(cachesidecar.CartItem{ProductID: "SKU-2"})
//		return nil
//	})
func (s *CartService) Edit(
	ctx context.Context, userID string, edit func(*CartEdit) error, options ...WriteOption,
) (*Cart, error) {
	var collected CartEdit
	if err := edit(&collected); err != nil || len(collected.changes) == 0 {
		return nil, err
	}
	settings := writeOf(options)
	request := &pb.ApplyCartChangesRequest{UserId: userID, Changes: collected.changes, RequestId: settings.requestID}
	reply, err := invoke[pb.ApplyCartChangesResponse](
		ctx, s.client, write, pb.CartService_ApplyCartChanges_FullMethodName, request, settings.callSettings)
	return cartOf(reply, err)
}

// AbandonedQuery says what Abandoned returns.
type AbandonedQuery struct {
	// IdleFor is for how long a cart has not been changed: 1 second to 400 days.
	IdleFor time.Duration
	// PageSize is how many carts are read at once, at most 1,000; 0 is 50.
	PageSize int
}

// Abandoned returns the carts with items that have not been changed for some time, the least recently changed first; always
// from PostgreSQL. An error ends it.
func (s *CartService) Abandoned(ctx context.Context, query AbandonedQuery, options ...CallOption) iter.Seq2[*Cart, error] {
	settings := callOf(options)
	return pages(func(token string) ([]*Cart, string, error) {
		size, err := int32From(query.PageSize, "PageSize")
		if err != nil {
			return nil, "", err
		}
		request := &pb.ListAbandonedCartsRequest{
			IdleFor: durationpb.New(query.IdleFor), PageSize: size, PageToken: token}
		reply, err := invoke[pb.ListAbandonedCartsResponse](
			ctx, s.client, read, pb.CartService_ListAbandonedCarts_FullMethodName, request, settings)
		if err != nil {
			return nil, "", err
		}
		convert := func(one *pb.Cart) *Cart { return cartFrom(one, nil) }
		return each(reply.Carts, convert), reply.NextPageToken, nil
	})
}

// CartState is a state of a cart that is watched.
type CartState struct {
	Cart
	// Missed says that the stream had broken: states between the one before and this one may have been skipped.
	Missed bool
}

// Watch returns the current state of a cart, and then its state after each change; a slow reader skips states. When the
// connection breaks, it goes on with the current state, whether that is a new one or not. It ends with an error when the
// context ends, or when the sidecar refuses it for good.
func (s *CartService) Watch(ctx context.Context, userID string) iter.Seq2[CartState, error] {
	return func(yield func(CartState, error) bool) {
		seen, isFirst := false, false
		open := func(ctx context.Context) (receiver[pb.WatchCartResponse], error) {
			isFirst = true
			return pb.NewCartServiceClient(s.client.conn).WatchCart(ctx, &pb.WatchCartRequest{UserId: userID})
		}
		watch(ctx, s.client, pb.CartService_WatchCart_FullMethodName, open, never,
			func(m *pb.WatchCartResponse) bool {
				state := CartState{Cart: *cartFrom(m.Cart, m.Cache), Missed: seen && isFirst}
				seen, isFirst = true, false
				return yield(state, nil)
			},
			func(err error) { yield(CartState{}, err) })
	}
}

// never is for watches whose errors have no exceptions.
func never(error) bool { return false }

// cartOf returns the cart of a reply to a change.
func cartOf(reply interface{ GetCart() *pb.Cart }, err error) (*Cart, error) {
	if err != nil {
		return nil, err
	}
	cart := cartFrom(reply.GetCart(), nil)
	if priced, ok := reply.(interface{ GetCataloguePrices() []*pb.CataloguePrice }); ok {
		cart.CataloguePrices = each(priced.GetCataloguePrices(), cataloguePriceFrom)
	}
	return cart, nil
}

func cataloguePriceFrom(p *pb.CataloguePrice) CataloguePrice {
	return CataloguePrice{ProductID: p.GetProductId(), UnitPrice: moneyFrom(p.GetUnitPrice()), ProductEtag: p.GetProductEtag()}
}

func cartFrom(c *pb.Cart, cache *pb.CacheMetadata) *Cart {
	return &Cart{
		UserID: c.GetUserId(), Items: each(c.GetItems(), cartItemFrom), Totals: moneysFrom(c.GetTotals()),
		CreateTime: timeFrom(c.GetCreateTime()), UpdateTime: timeFrom(c.GetUpdateTime()), Etag: c.GetEtag(),
		Cache: cacheFrom(cache),
	}
}

func cartItemFrom(i *pb.CartItem) CartItem {
	return CartItem{
		ProductID: i.GetProductId(), Quantity: i.GetQuantity(), UnitPrice: moneyFrom(i.GetUnitPrice()), Options: i.GetOptions()}
}

func (i CartItem) proto() *pb.CartItem {
	return &pb.CartItem{ProductId: i.ProductID, Quantity: i.Quantity, UnitPrice: i.UnitPrice.proto(), Options: i.Options}
}

func (c *Cart) setFallback() { c.Cache.Fallback = true }
