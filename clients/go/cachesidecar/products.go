package cachesidecar

import (
	"context"
	"errors"
	"iter"
	"maps"
	"slices"
	"time"

	pb "github.com/cache-sidecar/cache-sidecar/clients/go/cachesidecarv1"
)

// Product is a product of the catalogue. Slices and maps of one that was read may be shared with other readers: change a
// copy.
type Product struct {
	ProductID   string
	Title       string
	Description string
	Price       Money
	Categories  []string
	Brand       string
	ImageURIs   []string
	Attributes  map[string]string
	Active      bool
	// Rank is the place in the shop's own order, the lowest first; nil is none, and listed last.
	Rank *float64
	// Etag is the state that was read. An update or deletion with it fails if the product was changed since.
	Etag       string
	CreateTime time.Time
	UpdateTime time.Time
	// Cache is set by reads.
	Cache Cache
}

// ProductService reads and changes the catalogue.
type ProductService struct {
	client *Client
	joined *joiner[*Product]
	l0     *l0
}

func newProducts(c *Client, settings *config) *ProductService {
	s := &ProductService{client: c}
	if settings.l0Entries > 0 {
		s.l0 = newL0(settings.l0Entries, settings.l0Age, &c.counters)
	}
	if settings.joinWindow > 0 {
		s.joined = &joiner[*Product]{
			window: settings.joinWindow, resource: "product", method: pb.ProductService_BatchGetProducts_FullMethodName,
			single: s.get,
			batch: func(ctx context.Context, ids []string, settings readSettings) ([]*Product, []string, error) {
				batch, err := s.batchGet(ctx, ids, settings)
				if err != nil {
					return nil, nil, err
				}
				return batch.Products, batch.Missing, nil
			},
			idOf: func(p *Product) string { return p.ProductID },
		}
	}
	return s
}

// Get returns a product. Fails with NotFound if it does not exist.
func (s *ProductService) Get(ctx context.Context, productID string, options ...ReadOption) (*Product, error) {
	settings := readOf(options)
	if s.l0 == nil {
		return s.getOrFallBack(ctx, productID, settings)
	}
	if product := s.l0.get(productID, settings.options); product != nil {
		return product, nil
	}
	asked := time.Now()
	product, err := s.getOrFallBack(ctx, productID, settings)
	if err == nil {
		s.l0.put(product, asked)
	}
	return product, err
}

func (s *ProductService) getOrFallBack(ctx context.Context, productID string, settings readSettings) (*Product, error) {
	return withFallback(ctx, s.client, settings, pb.ProductService_GetProduct_FullMethodName,
		func(ctx context.Context) (*Product, error) {
			if s.joined == nil {
				return s.get(ctx, productID, settings)
			}
			ctx, cancel := s.client.withDeadline(ctx, read, settings.timeout)
			defer cancel()
			return s.joined.get(ctx, productID, settings)
		})
}

func (s *ProductService) get(ctx context.Context, productID string, settings readSettings) (*Product, error) {
	request := &pb.GetProductRequest{ProductId: productID, Options: settings.options}
	reply, err := invoke[pb.GetProductResponse](
		ctx, s.client, read, pb.ProductService_GetProduct_FullMethodName, request, settings.callSettings)
	if err != nil {
		return nil, err
	}
	return productFrom(reply.Product, reply.Cache), nil
}

// ProductBatch is what BatchGet returns.
type ProductBatch struct {
	// Products are those that exist, in the order of the request.
	Products []*Product
	// Missing are the ids of those that do not exist.
	Missing []string
	// Cache is about the batch as a whole: the slowest tier, the greatest age.
	Cache Cache
}

// BatchGet returns up to 500 products. Products whose rows cannot be read are neither in Products nor in Missing.
func (s *ProductService) BatchGet(ctx context.Context, productIDs []string, options ...ReadOption) (*ProductBatch, error) {
	settings := readOf(options)
	return withFallback(ctx, s.client, settings, pb.ProductService_BatchGetProducts_FullMethodName,
		func(ctx context.Context) (*ProductBatch, error) { return s.batchGet(ctx, productIDs, settings) })
}

func (s *ProductService) batchGet(ctx context.Context, productIDs []string, settings readSettings) (*ProductBatch, error) {
	request := &pb.BatchGetProductsRequest{ProductIds: productIDs, Options: settings.options}
	reply, err := invoke[pb.BatchGetProductsResponse](
		ctx, s.client, read, pb.ProductService_BatchGetProducts_FullMethodName, request, settings.callSettings)
	if err != nil {
		return nil, err
	}
	batch := &ProductBatch{Missing: reply.Missing, Cache: cacheFrom(reply.Cache)}
	for i, one := range reply.Products {
		cache := reply.Cache
		if i < len(reply.ProductCaches) {
			cache = reply.ProductCaches[i]
		}
		batch.Products = append(batch.Products, productFrom(one, cache))
	}
	return batch, nil
}

// ProductQuery says what List returns.
type ProductQuery struct {
	// Category selects the products in exactly this category; empty selects all.
	Category string
	// PageSize is how many products are read at once, at most 1,000; 0 is 50.
	PageSize int
	// Order is the order of the products, by default that of their ids.
	Order ProductOrder
	// IncludeInactive adds the products that are not active. Then the list is always read from PostgreSQL, by id.
	IncludeInactive bool
}

// ProductOrder is the order of a list of products.
type ProductOrder = pb.ProductOrder

// The orders of products. By rank is the shop's own order.
const (
	ProductsByID     = pb.ProductOrder_PRODUCT_ORDER_PRODUCT_ID
	ProductsByTitle  = pb.ProductOrder_PRODUCT_ORDER_TITLE
	ProductsByPrice  = pb.ProductOrder_PRODUCT_ORDER_PRICE
	ProductsByNewest = pb.ProductOrder_PRODUCT_ORDER_NEWEST
	ProductsByRank   = pb.ProductOrder_PRODUCT_ORDER_RANK
)

// List returns the products in order, page after page as they are consumed. An error ends it.
func (s *ProductService) List(ctx context.Context, query ProductQuery, options ...ReadOption) iter.Seq2[*Product, error] {
	settings := readOf(options)
	return pages(func(token string) ([]*Product, string, error) {
		size, err := int32From(query.PageSize, "PageSize")
		if err != nil {
			return nil, "", err
		}
		request := &pb.ListProductsRequest{
			PageSize: size, PageToken: token, Category: query.Category, Order: query.Order,
			IncludeInactive: query.IncludeInactive, Options: settings.options,
		}
		reply, err := invoke[pb.ListProductsResponse](
			ctx, s.client, read, pb.ProductService_ListProducts_FullMethodName, request, settings.callSettings)
		if err != nil {
			return nil, "", err
		}
		convert := func(one *pb.Product) *Product { return productFrom(one, nil) }
		return each(reply.Products, convert), reply.NextPageToken, nil
	})
}

// Category is a category of active products.
type Category struct {
	Category string
	// ProductCount is the number of products in exactly this category.
	ProductCount int64
	// TotalProductCount is the number of products in this category or any below it.
	TotalProductCount int64
	Subcategories     []Category
}

// Categories are the categories that are below no other one.
type Categories struct {
	Categories []Category
	Cache      Cache
}

// Categories returns the categories of the active products as trees, with counts.
func (s *ProductService) Categories(ctx context.Context, options ...ReadOption) (*Categories, error) {
	settings := readOf(options)
	return withFallback(ctx, s.client, settings, pb.ProductService_GetCategories_FullMethodName,
		func(ctx context.Context) (*Categories, error) {
			request := &pb.GetCategoriesRequest{Options: settings.options}
			reply, err := invoke[pb.GetCategoriesResponse](
				ctx, s.client, read, pb.ProductService_GetCategories_FullMethodName, request, settings.callSettings)
			if err != nil {
				return nil, err
			}
			return &Categories{Categories: each(reply.Categories, categoryFrom), Cache: cacheFrom(reply.Cache)}, nil
		})
}

func categoryFrom(c *pb.Category) Category {
	return Category{
		Category: c.Category, ProductCount: c.ProductCount, TotalProductCount: c.TotalProductCount,
		Subcategories: each(c.Subcategories, categoryFrom),
	}
}

// Create creates a product; its etag and times are ignored. Fails with AlreadyExists if its id is taken.
func (s *ProductService) Create(ctx context.Context, product Product, options ...WriteOption) (*Product, error) {
	settings := writeOf(options)
	request := &pb.CreateProductRequest{Product: product.proto(), RequestId: settings.requestID}
	reply, err := invoke[pb.CreateProductResponse](
		ctx, s.client, write, pb.ProductService_CreateProduct_FullMethodName, request, settings.callSettings)
	if err != nil {
		return nil, err
	}
	return s.wrote(productFrom(reply.Product, nil)), nil
}

// Update sets the fields of a product that are not empty, or those that Fields names:
//
//	shop.Products.Update(ctx, cachesidecar.Product{ProductID: "SKU-1", Title: "B", Etag: p.Etag})
//	shop.Products.Update(ctx, cachesidecar.Product{ProductID: "SKU-1"}, cachesidecar.Fields("active"))
//
// Fails with NotFound, and with EtagMismatch if Etag is set and is not the current one.
func (s *ProductService) Update(ctx context.Context, product Product, options ...UpdateOption) (*Product, error) {
	settings := updateOf(options)
	request := &pb.UpdateProductRequest{
		Product: product.proto(), UpdateMask: settings.mask, RequestId: settings.requestID}
	reply, err := invoke[pb.UpdateProductResponse](
		ctx, s.client, write, pb.ProductService_UpdateProduct_FullMethodName, request, settings.callSettings)
	if err != nil {
		return nil, err
	}
	return s.wrote(productFrom(reply.Product, nil)), nil
}

// Edit reads a product, has it changed, and writes the fields that differ, unless someone else changed the product meanwhile:
// then it begins again, until the context ends. An error of change ends it. If nothing was changed, nothing is written.
func (s *ProductService) Edit(
	ctx context.Context, productID string, change func(*Product) error, options ...CallOption,
) (*Product, error) {
	ctx, cancel := s.client.withDeadline(ctx, write, callOf(options).timeout)
	defer cancel()
	// What the caches hold is good enough to begin with, not after a conflict.
	for from := (readSettings{}); ; from.proto().Bypass = true {
		before, err := s.get(ctx, productID, from)
		if err != nil {
			return nil, err
		}
		after := before.clone()
		if err := change(after); err != nil {
			return nil, err
		}
		changed := before.differing(after)
		if len(changed) == 0 {
			return before, nil
		}
		after.ProductID, after.Etag = before.ProductID, before.Etag
		updated, err := s.Update(ctx, *after, Fields(changed...))
		if !errors.Is(err, EtagMismatch) {
			return updated, err
		}
	}
}

// Delete deletes a product; an etag that is not empty must be the current one. Fails with NotFound and EtagMismatch.
func (s *ProductService) Delete(ctx context.Context, productID, etag string, options ...WriteOption) error {
	settings := writeOf(options)
	request := &pb.DeleteProductRequest{ProductId: productID, Etag: etag, RequestId: settings.requestID}
	_, err := invoke[pb.DeleteProductResponse](
		ctx, s.client, write, pb.ProductService_DeleteProduct_FullMethodName, request, settings.callSettings)
	if err == nil && s.l0 != nil {
		s.l0.wrote(productID, "")
	}
	return err
}

// wrote drops what this process remembers of a product that it has just written, so that it reads its own writes.
func (s *ProductService) wrote(product *Product) *Product {
	if s.l0 != nil {
		s.l0.wrote(product.ProductID, product.Etag)
	}
	return product
}

// ChangeKind says what happened to a product.
type ChangeKind = pb.ChangeKind

// The kinds of a ProductChange.
const (
	ChangeCreated      = pb.ChangeKind_CHANGE_KIND_CREATED
	ChangeUpdated      = pb.ChangeKind_CHANGE_KIND_UPDATED
	ChangeDeleted      = pb.ChangeKind_CHANGE_KIND_DELETED
	ChangeWatchStarted = pb.ChangeKind_CHANGE_KIND_WATCH_STARTED
)

// ProductChange is a committed change of the catalogue, or the start of a watch.
type ProductChange struct {
	Kind ChangeKind
	// ProductID is empty where a watch starts.
	ProductID string
	// Version is the product's after the change, or that at which the watch starts.
	Version    int64
	ChangeTime time.Time
	// Missed says, where a watch starts again, that changes before this one were missed: read again what you keep.
	Missed bool
}

// Watch returns every committed change of the catalogue after a version, or from now on for 0. The first one says that the
// watch has started: every change after that is in it. When the connection breaks, the watch is resumed where it was. If that
// is not possible, a change with kind ChangeWatchStarted and Missed comes. It ends with an error when the context ends, or
// when the sidecar refuses it for good.
func (s *ProductService) Watch(ctx context.Context, afterVersion int64) iter.Seq2[ProductChange, error] {
	return func(yield func(ProductChange, error) bool) {
		last, started := afterVersion, false
		open := func(ctx context.Context) (receiver[pb.WatchProductsResponse], error) {
			return pb.NewProductServiceClient(s.client.conn).WatchProducts(ctx, &pb.WatchProductsRequest{AfterVersion: last})
		}
		missed := false
		expired := func(err error) bool {
			if !errors.Is(err, ChangesExpired) || last == 0 {
				return false
			}
			last, missed = 0, true
			return true
		}
		watch(ctx, s.client, pb.ProductService_WatchProducts_FullMethodName, open, expired,
			func(m *pb.WatchProductsResponse) bool {
				change := ProductChange{
					Kind: m.Kind, ProductID: m.ProductId, Version: m.Version, ChangeTime: timeFrom(m.ChangeTime)}
				resumed := started && last > 0
				// The last one received, not the greatest: commits of different products may overtake each other.
				last = m.Version
				if m.Kind != ChangeWatchStarted {
					return yield(change, nil)
				}
				if resumed {
					return true // nothing was missed, so its start is no news
				}
				change.Missed = missed || started
				missed, started = false, true
				return yield(change, nil)
			},
			func(err error) { yield(ProductChange{}, err) })
	}
}

func productFrom(p *pb.Product, cache *pb.CacheMetadata) *Product {
	if p == nil {
		return &Product{Cache: cacheFrom(cache)}
	}
	return &Product{
		ProductID: p.ProductId, Title: p.Title, Description: p.Description, Price: moneyFrom(p.Price),
		Categories: p.Categories, Brand: p.Brand, ImageURIs: p.ImageUris, Attributes: p.Attributes, Active: p.Active,
		Rank: p.Rank, Etag: p.Etag, CreateTime: timeFrom(p.CreateTime), UpdateTime: timeFrom(p.UpdateTime), Cache: cacheFrom(cache),
	}
}

func (p *Product) proto() *pb.Product {
	return &pb.Product{
		ProductId: p.ProductID, Title: p.Title, Description: p.Description, Price: p.Price.proto(),
		Categories: p.Categories, Brand: p.Brand, ImageUris: p.ImageURIs, Attributes: p.Attributes, Active: p.Active,
		Rank: p.Rank, Etag: p.Etag,
	}
}

func (p *Product) clone() *Product {
	copied := *p
	copied.Categories, copied.ImageURIs = slices.Clone(p.Categories), slices.Clone(p.ImageURIs)
	copied.Attributes = maps.Clone(p.Attributes)
	if p.Rank != nil {
		rank := *p.Rank
		copied.Rank = &rank
	}
	return &copied
}

// differing returns the names of the fields that an update has to set to turn a product into another.
func (p *Product) differing(other *Product) []string {
	var fields []string
	for _, field := range []struct {
		name    string
		differs bool
	}{
		{"title", p.Title != other.Title},
		{"description", p.Description != other.Description},
		{"price", p.Price != other.Price},
		{"categories", !slices.Equal(p.Categories, other.Categories)},
		{"brand", p.Brand != other.Brand},
		{"image_uris", !slices.Equal(p.ImageURIs, other.ImageURIs)},
		{"attributes", !maps.Equal(p.Attributes, other.Attributes)},
		{"active", p.Active != other.Active},
		{"rank", (p.Rank == nil) != (other.Rank == nil) || p.Rank != nil && *p.Rank != *other.Rank},
	} {
		if field.differs {
			fields = append(fields, field.name)
		}
	}
	return fields
}

func (p *Product) setFallback() { p.Cache.Fallback = true }

func (c *Categories) setFallback() { c.Cache.Fallback = true }

func (b *ProductBatch) setFallback() { b.Cache.Fallback = true }
