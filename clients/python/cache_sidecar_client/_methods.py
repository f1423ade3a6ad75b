"""Every method of the API: its path, its messages, and how long it may take."""

from dataclasses import dataclass, field
from enum import Enum
from typing import Generic, TypeVar

from google.protobuf.message import Message

from cache_sidecar_client.v1 import (
    admin_service_pb2,
    cart_service_pb2,
    inventory_service_pb2,
    product_service_pb2,
    recommendation_service_pb2,
    session_service_pb2,
    user_event_service_pb2,
)

Q = TypeVar("Q", bound=Message)
R = TypeVar("R", bound=Message)


class Kind(Enum):
    """Which of the options' deadlines a method has."""

    READ = "read"
    WRITE = "write"
    ADMIN = "admin"

    # Each call looks its deadline up; that of Enum is written in Python.
    __hash__ = object.__hash__


@dataclass(frozen=True, eq=False)
class Method(Generic[Q, R]):
    """One method."""

    name: str
    "Such as `ProductService/GetProduct`."
    request: type[Q]
    reply: type[R]
    kind: Kind = Kind.READ
    path: str = field(init=False)
    has_request_id: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "path", f"/cache_sidecar.v1.{self.name}")
        object.__setattr__(self, "has_request_id", "request_id" in self.request.DESCRIPTOR.fields_by_name)


GET_PRODUCT = Method("ProductService/GetProduct", product_service_pb2.GetProductRequest, product_service_pb2.GetProductResponse)
BATCH_GET_PRODUCTS = Method(
    "ProductService/BatchGetProducts", product_service_pb2.BatchGetProductsRequest, product_service_pb2.BatchGetProductsResponse
)
LIST_PRODUCTS = Method(
    "ProductService/ListProducts", product_service_pb2.ListProductsRequest, product_service_pb2.ListProductsResponse
)
GET_CATEGORIES = Method(
    "ProductService/GetCategories", product_service_pb2.GetCategoriesRequest, product_service_pb2.GetCategoriesResponse
)
CREATE_PRODUCT = Method(
    "ProductService/CreateProduct",
    product_service_pb2.CreateProductRequest,
    product_service_pb2.CreateProductResponse,
    Kind.WRITE,
)
UPDATE_PRODUCT = Method(
    "ProductService/UpdateProduct",
    product_service_pb2.UpdateProductRequest,
    product_service_pb2.UpdateProductResponse,
    Kind.WRITE,
)
DELETE_PRODUCT = Method(
    "ProductService/DeleteProduct",
    product_service_pb2.DeleteProductRequest,
    product_service_pb2.DeleteProductResponse,
    Kind.WRITE,
)
WATCH_PRODUCTS = Method(
    "ProductService/WatchProducts", product_service_pb2.WatchProductsRequest, product_service_pb2.WatchProductsResponse
)
CREATE_SESSION = Method(
    "SessionService/CreateSession",
    session_service_pb2.CreateSessionRequest,
    session_service_pb2.CreateSessionResponse,
    Kind.WRITE,
)
GET_SESSION = Method("SessionService/GetSession", session_service_pb2.GetSessionRequest, session_service_pb2.GetSessionResponse)
TOUCH_SESSION = Method(
    "SessionService/TouchSession", session_service_pb2.TouchSessionRequest, session_service_pb2.TouchSessionResponse
)
UPDATE_SESSION = Method(
    "SessionService/UpdateSession",
    session_service_pb2.UpdateSessionRequest,
    session_service_pb2.UpdateSessionResponse,
    Kind.WRITE,
)
DELETE_SESSION = Method(
    "SessionService/DeleteSession",
    session_service_pb2.DeleteSessionRequest,
    session_service_pb2.DeleteSessionResponse,
    Kind.WRITE,
)
ROTATE_SESSION = Method(
    "SessionService/RotateSession",
    session_service_pb2.RotateSessionRequest,
    session_service_pb2.RotateSessionResponse,
    Kind.WRITE,
)
LIST_USER_SESSIONS = Method(
    "SessionService/ListUserSessions", session_service_pb2.ListUserSessionsRequest, session_service_pb2.ListUserSessionsResponse
)
DELETE_USER_SESSIONS = Method(
    "SessionService/DeleteUserSessions",
    session_service_pb2.DeleteUserSessionsRequest,
    session_service_pb2.DeleteUserSessionsResponse,
    Kind.WRITE,
)
GET_CART = Method("CartService/GetCart", cart_service_pb2.GetCartRequest, cart_service_pb2.GetCartResponse)
REPLACE_CART = Method(
    "CartService/ReplaceCart", cart_service_pb2.ReplaceCartRequest, cart_service_pb2.ReplaceCartResponse, Kind.WRITE
)
ADD_CART_ITEM = Method(
    "CartService/AddCartItem", cart_service_pb2.AddCartItemRequest, cart_service_pb2.AddCartItemResponse, Kind.WRITE
)
SET_CART_ITEM_QUANTITY = Method(
    "CartService/SetCartItemQuantity",
    cart_service_pb2.SetCartItemQuantityRequest,
    cart_service_pb2.SetCartItemQuantityResponse,
    Kind.WRITE,
)
REMOVE_CART_ITEM = Method(
    "CartService/RemoveCartItem", cart_service_pb2.RemoveCartItemRequest, cart_service_pb2.RemoveCartItemResponse, Kind.WRITE
)
CLEAR_CART = Method("CartService/ClearCart", cart_service_pb2.ClearCartRequest, cart_service_pb2.ClearCartResponse, Kind.WRITE)
MERGE_CARTS = Method(
    "CartService/MergeCarts", cart_service_pb2.MergeCartsRequest, cart_service_pb2.MergeCartsResponse, Kind.WRITE
)
APPLY_CART_CHANGES = Method(
    "CartService/ApplyCartChanges",
    cart_service_pb2.ApplyCartChangesRequest,
    cart_service_pb2.ApplyCartChangesResponse,
    Kind.WRITE,
)
LIST_ABANDONED_CARTS = Method(
    "CartService/ListAbandonedCarts", cart_service_pb2.ListAbandonedCartsRequest, cart_service_pb2.ListAbandonedCartsResponse
)
WATCH_CART = Method("CartService/WatchCart", cart_service_pb2.WatchCartRequest, cart_service_pb2.WatchCartResponse)
GET_INVENTORY = Method(
    "InventoryService/GetInventory", inventory_service_pb2.GetInventoryRequest, inventory_service_pb2.GetInventoryResponse
)
BATCH_GET_INVENTORY = Method(
    "InventoryService/BatchGetInventory",
    inventory_service_pb2.BatchGetInventoryRequest,
    inventory_service_pb2.BatchGetInventoryResponse,
)
SET_INVENTORY = Method(
    "InventoryService/SetInventory",
    inventory_service_pb2.SetInventoryRequest,
    inventory_service_pb2.SetInventoryResponse,
    Kind.WRITE,
)
ADJUST_INVENTORY = Method(
    "InventoryService/AdjustInventory",
    inventory_service_pb2.AdjustInventoryRequest,
    inventory_service_pb2.AdjustInventoryResponse,
    Kind.WRITE,
)
RESERVE_INVENTORY = Method(
    "InventoryService/ReserveInventory",
    inventory_service_pb2.ReserveInventoryRequest,
    inventory_service_pb2.ReserveInventoryResponse,
    Kind.WRITE,
)
EXTEND_RESERVATION = Method(
    "InventoryService/ExtendReservation",
    inventory_service_pb2.ExtendReservationRequest,
    inventory_service_pb2.ExtendReservationResponse,
    Kind.WRITE,
)
COMMIT_RESERVATION = Method(
    "InventoryService/CommitReservation",
    inventory_service_pb2.CommitReservationRequest,
    inventory_service_pb2.CommitReservationResponse,
    Kind.WRITE,
)
RELEASE_RESERVATION = Method(
    "InventoryService/ReleaseReservation",
    inventory_service_pb2.ReleaseReservationRequest,
    inventory_service_pb2.ReleaseReservationResponse,
    Kind.WRITE,
)
GET_RESERVATION = Method(
    "InventoryService/GetReservation", inventory_service_pb2.GetReservationRequest, inventory_service_pb2.GetReservationResponse
)
LIST_RESERVATIONS = Method(
    "InventoryService/ListReservations",
    inventory_service_pb2.ListReservationsRequest,
    inventory_service_pb2.ListReservationsResponse,
)
WATCH_INVENTORY = Method(
    "InventoryService/WatchInventory", inventory_service_pb2.WatchInventoryRequest, inventory_service_pb2.WatchInventoryResponse
)
GET_RECOMMENDATIONS = Method(
    "RecommendationService/GetRecommendations",
    recommendation_service_pb2.GetRecommendationsRequest,
    recommendation_service_pb2.GetRecommendationsResponse,
)
IMPORT_RECOMMENDATIONS = Method(
    "RecommendationService/ImportRecommendations",
    recommendation_service_pb2.ImportRecommendationsRequest,
    recommendation_service_pb2.ImportRecommendationsResponse,
    Kind.ADMIN,
)
DELETE_RECOMMENDATIONS = Method(
    "RecommendationService/DeleteRecommendations",
    recommendation_service_pb2.DeleteRecommendationsRequest,
    recommendation_service_pb2.DeleteRecommendationsResponse,
    Kind.ADMIN,
)
WRITE_USER_EVENTS = Method(
    "UserEventService/WriteUserEvents",
    user_event_service_pb2.WriteUserEventsRequest,
    user_event_service_pb2.WriteUserEventsResponse,
    Kind.WRITE,
)
STREAM_USER_EVENTS = Method(
    "UserEventService/StreamUserEvents",
    user_event_service_pb2.StreamUserEventsRequest,
    user_event_service_pb2.StreamUserEventsResponse,
    Kind.WRITE,
)
PURGE_USER_EVENTS = Method(
    "UserEventService/PurgeUserEvents",
    user_event_service_pb2.PurgeUserEventsRequest,
    user_event_service_pb2.PurgeUserEventsResponse,
    Kind.ADMIN,
)
INVALIDATE = Method(
    "AdminService/Invalidate", admin_service_pb2.InvalidateRequest, admin_service_pb2.InvalidateResponse, Kind.ADMIN
)
GET_STATS = Method("AdminService/GetStats", admin_service_pb2.GetStatsRequest, admin_service_pb2.GetStatsResponse)
INSPECT_KEY = Method("AdminService/InspectKey", admin_service_pb2.InspectKeyRequest, admin_service_pb2.InspectKeyResponse)
GET_POLICY = Method("AdminService/GetPolicy", admin_service_pb2.GetPolicyRequest, admin_service_pb2.GetPolicyResponse)
UPDATE_POLICY = Method(
    "AdminService/UpdatePolicy", admin_service_pb2.UpdatePolicyRequest, admin_service_pb2.UpdatePolicyResponse, Kind.ADMIN
)
