"""The demo catalogue: realistic products, identical on every machine and Python version."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from cache_sidecar.store.connection import Connection

SEED = 20101201
CURRENCY = "EUR"
FIRST_PRODUCT_ID = "SKU-000001"
# One product in this many is not for sale.
INACTIVE_EVERY = 50


class DemoProduct(NamedTuple):
    """The columns of cache_sidecar.products that a shop sets."""

    product_id: str
    title: str
    description: str
    price_units: int
    price_nanos: int
    currency_code: str
    categories: Sequence[str]
    brand: str
    image_uris: Sequence[str]
    attributes: dict[str, str]
    active: bool


class _Shelf(NamedTuple):
    """A group of similar products, and the values that they are composed of."""

    department: str
    name: str
    nouns: Sequence[str]
    materials: Sequence[str]
    sizes: Sequence[str]
    prices: tuple[int, int]
    "The lowest and the highest price, in whole units of the currency."
    weights: tuple[int, int]
    "The lowest and the highest weight, in grams."
    uses: Sequence[str]
    "Predicates of a sentence whose subject is the product."


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(","))


_CLOTHES_SIZES = _words("XS, S, M, L, XL, XXL")
_SHOE_SIZES = _words("36, 37, 38, 39, 40, 41, 42, 43, 44, 45")

_SHELVES = (
    _Shelf(
        "Kitchen", "Cookware",
        _words("Saucepan, Frying Pan, Casserole, Wok, Roasting Tin, Stockpot, Griddle Pan"),
        _words("Cast Iron, Stainless Steel, Copper, Enamel, Carbon Steel"),
        _words("16 cm, 20 cm, 24 cm, 28 cm, 32 cm"), (14, 160), (600, 5200),
        _words("heats evenly on every hob, goes from the hob into the oven, cleans up in a minute, is made for slow suppers"),
    ),
    _Shelf(
        "Kitchen", "Tableware",
        _words("Dinner Plate, Soup Bowl, Mug, Serving Dish, Milk Jug, Teapot, Egg Cup"),
        _words("Stoneware, Porcelain, Earthenware, Glass, Bone China"),
        _words("Small, Medium, Large, Set of 2, Set of 4, Set of 6"), (4, 70), (120, 2600),
        _words("is safe in the dishwasher, stacks neatly in a small cupboard, makes a table look laid, is glazed by hand"),
    ),
    _Shelf(
        "Kitchen", "Coffee & Tea",
        _words("Coffee Grinder, Moka Pot, French Press, Tea Strainer, Kettle, Milk Frother"),
        _words("Stainless Steel, Borosilicate Glass, Brass, Ceramic"),
        _words("0.35 l, 0.5 l, 1 l, 1.5 l"), (9, 190), (90, 1900),
        _words("makes the first cup of the day, keeps its heat for an hour, pours without a drip, fits into a picnic basket"),
    ),
    _Shelf(
        "Home", "Lighting",
        _words("Table Lamp, Floor Lamp, Pendant Light, Wall Light, Lantern, Light Chain"),
        _words("Brass, Linen, Smoked Glass, Rattan, Bamboo, Powder-Coated Steel"),
        _words("25 cm, 40 cm, 60 cm, 120 cm, 160 cm"), (12, 240), (250, 7400),
        _words("gives a warm light to read by, dims without a flicker, takes any E27 bulb, hangs well over a long table"),
    ),
    _Shelf(
        "Home", "Cushions & Throws",
        _words("Cushion, Throw, Blanket, Bolster, Floor Cushion, Bedspread"),
        _words("Wool, Linen, Cotton, Velvet, Mohair, Recycled Cotton"),
        _words("40 x 40 cm, 50 x 50 cm, 130 x 170 cm, 150 x 200 cm, 220 x 240 cm"), (8, 130), (200, 2800),
        _words("is soft enough for a nap, washes at 30 degrees, is woven in small batches, keeps its shape for years"),
    ),
    _Shelf(
        "Home", "Storage",
        _words("Basket, Storage Box, Shelf, Coat Rack, Magazine Rack, Laundry Bin, Drawer Organiser"),
        _words("Rattan, Oak, Felt, Seagrass, Bamboo, Wire, Canvas"),
        _words("Small, Medium, Large, Set of 3"), (6, 150), (180, 9000),
        _words("finds room for what lies about, folds flat when empty, carries up to 10 kg, goes together without tools"),
    ),
    _Shelf(
        "Garden", "Planters",
        _words("Flower Pot, Window Box, Hanging Planter, Watering Can, Raised Bed, Plant Stand"),
        _words("Terracotta, Zinc, Fibre Clay, Cedar, Corten Steel, Recycled Plastic"),
        _words("12 cm, 18 cm, 25 cm, 40 cm, 80 cm"), (5, 120), (150, 14000),
        _words("stands frost down to -15 degrees, drains well after rain, ages to a fine patina, suits herbs on a balcony"),
    ),
    _Shelf(
        "Garden", "Tools",
        _words("Hand Trowel, Pruner, Spade, Garden Fork, Hoe, Rake, Pruning Saw"),
        _words("Forged Steel, Stainless Steel, Carbon Steel, Ash Wood"),
        _words("25 cm, 32 cm, 90 cm, 120 cm, 140 cm"), (7, 110), (140, 2700),
        _words("keeps its edge through a season, lies well in smaller hands, digs easily in heavy soil, can be sharpened"),
    ),
    _Shelf(
        "Clothing", "Knitwear",
        _words("Jumper, Cardigan, Polo Neck, Knitted Vest, Scarf, Beanie"),
        _words("Merino, Lambswool, Cashmere, Alpaca, Organic Cotton"),
        _CLOTHES_SIZES, (19, 230), (90, 900),
        _words("is warm without weight, is knitted in one piece, wears well over a shirt, comes with yarn for mending"),
    ),
    _Shelf(
        "Clothing", "Shirts",
        _words("Oxford Shirt, T-Shirt, Blouse, Polo Shirt, Overshirt, Henley"),
        _words("Organic Cotton, Linen, Flannel, Chambray, Jersey, Poplin"),
        _CLOTHES_SIZES, (12, 110), (120, 480),
        _words("needs next to no ironing, is cut a little looser, gets softer with every wash, has a spare button inside"),
    ),
    _Shelf(
        "Clothing", "Shoes",
        _words("Trainer, Ankle Boot, Loafer, Sandal, Derby Shoe, Slipper"),
        _words("Leather, Suede, Canvas, Nubuck, Felt, Recycled Knit"),
        _SHOE_SIZES, (25, 260), (350, 1700),
        _words("can be resoled, walks in within a day, stays dry in a shower, has an insole that comes out"),
    ),
    _Shelf(
        "Outdoor", "Camping",
        _words("Tent, Sleeping Bag, Camping Stove, Lantern, Sleeping Mat, Folding Chair, Flask"),
        _words("Ripstop Nylon, Aluminium, Titanium, Polycotton, Stainless Steel"),
        _words("1 person, 2 persons, 4 persons, 0.75 l, 1 l"), (15, 480), (110, 6800),
        _words("packs smaller than a loaf of bread, stands in four minutes, keeps out a night of rain, weighs next to nothing"),
    ),
    _Shelf(
        "Outdoor", "Bags",
        _words("Backpack, Daypack, Duffel Bag, Tote Bag, Bicycle Bag, Hip Pack"),
        _words("Waxed Canvas, Recycled Nylon, Leather, Cordura, Cotton Twill"),
        _words("8 l, 15 l, 22 l, 35 l, 60 l"), (15, 280), (150, 2400),
        _words("has a pocket for a laptop, fits under an aeroplane seat, closes with a roll top, carries well when full"),
    ),
    _Shelf(
        "Toys", "Wooden Toys",
        _words("Block Set, Train Set, Puzzle, Pull-Along Duck, Marble Run, Doll's House, Ring Stacker"),
        _words("Beech, Maple, Lime Wood, Rubberwood, Birch Plywood"),
        _words("12 pieces, 24 pieces, 48 pieces, 100 pieces"), (7, 140), (180, 5200),
        _words("is painted with water-based colours, has no small parts, lasts for more than one child, goes with other sets"),
    ),
    _Shelf(
        "Stationery", "Notebooks",
        _words("Notebook, Diary, Sketchbook, Journal, Address Book, Planner"),
        _words("Recycled Paper, Linen, Leather, Kraft Paper, Cotton Paper"),
        _words("A4, A5, A6, B5"), (3, 45), (80, 900),
        _words("lies flat when open, takes ink without bleeding, has numbered pages, closes with an elastic band"),
    ),
    _Shelf(
        "Bath", "Towels & Linen",
        _words("Hand Towel, Bath Towel, Bath Mat, Bathrobe, Flannel, Sauna Towel"),
        _words("Organic Cotton, Waffle Cotton, Linen, Bamboo Viscose, Turkish Cotton"),
        _words("30 x 50 cm, 50 x 100 cm, 70 x 140 cm, 100 x 180 cm"), (4, 120), (60, 1600),
        _words("dries quickly, is thick and thirsty, gets softer with use, has a loop to hang it by"),
    ),
)  # fmt: skip

_ADJECTIVES = _words(
    "Classic, Nordic, Rustic, Modern, Vintage, Handmade, Slim, Everyday, Little, Grand, Folding, Striped, Plain"
)
_COLOURS = _words(
    "White, Black, Sand, Moss Green, Navy, Terracotta, Slate Grey, Mustard, Dusty Pink, Sky Blue, Burgundy, Natural"
)
_BRANDS = _words(
    "Aldermoor, Brightwell & Daughters, Casa Lumbre, Dunlin Works, Eskeby, Fennimore, Gullholm, Hartsease, Ildiko Varga, "
    "Jonquil Lane, Kestrel & Rye, Lindenhof, Marlowe Supply, Nordvik, Ottoline, Pennyroyal, Quillfeather, Rooksbury, "
    "Sundal, Thistlewick, Umberto Sala, Vinterlys, Wrenfield, Yarrow House"
)
_COUNTRIES = _words("Portugal, Sweden, Italy, Poland, India, Japan, Germany, United Kingdom, Türkiye, Lithuania")
_EXTRA_CATEGORIES = _words("Gifts, New In, Sale, Sustainable, Bestsellers")
_CARE = _words("Wipe with a damp cloth, Machine wash at 30 degrees, Wash by hand, Dry clean only, Keep away from frost")
_IMAGE = "https://images.example.com/products/{}/{}.jpg"
_CLOSINGS = (
    "Designed in our own studio and made in {country}.",
    "Made in {country} by a family business we have worked with for years.",
    "If it is not what you hoped for, send it back within 60 days.",
    "Colours may differ a little from one batch to the next.",
)


def products(count: int, *, seed: int = SEED) -> Iterator[DemoProduct]:
    """Yields products, `SKU-000001` first. With the same seed, a longer catalogue starts with the shorter one."""
    dice = _Dice(seed)
    for number in range(1, count + 1):
        yield _product(number, dice)


class _Dice:
    """Draws random values from a seed. Only Random.random() is guaranteed to be the same in every Python version."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed).random  # noqa: S311

    def pick(self, options: Sequence[str]) -> str:
        """Returns one of the options."""
        return options[int(self.draw() * len(options))]

    def between(self, limits: tuple[int, int]) -> int:
        """Returns a number within the limits; low ones are more frequent. The arithmetic is exact on every machine."""
        low, high = limits
        fraction = self.draw()
        return low + int((high - low) * fraction * fraction)


def _product(number: int, dice: _Dice) -> DemoProduct:
    product_id = f"SKU-{number:06d}"
    shelf = _SHELVES[int(dice.draw() * len(_SHELVES))]
    brand, country = dice.pick(_BRANDS), dice.pick(_COUNTRIES)
    colour, size, material = dice.pick(_COLOURS), dice.pick(shelf.sizes), dice.pick(shelf.materials)
    name = f"{dice.pick(_ADJECTIVES)} {material} {dice.pick(shelf.nouns)}"
    return DemoProduct(
        product_id=product_id,
        title=f"{name}, {colour}, {size}",
        description=_description(dice, shelf, name, country=country, brand=brand),
        price_units=dice.between(shelf.prices),
        price_nanos=990_000_000 if dice.draw() < 0.7 else 500_000_000,
        currency_code=CURRENCY,
        categories=_categories(dice, shelf),
        brand=brand,
        image_uris=[_IMAGE.format(product_id, view) for view in range(1, 2 + int(dice.draw() * 3))],
        attributes={
            "care": dice.pick(_CARE),
            "colour": colour,
            "country_of_origin": country,
            "material": material,
            "size": size,
            "weight": f"{dice.between(shelf.weights)} g",
        },
        active=number % INACTIVE_EVERY != 0,
    )


def _description(dice: _Dice, shelf: _Shelf, name: str, *, country: str, brand: str) -> str:
    first, second = dice.pick(shelf.uses), dice.pick(shelf.uses)
    sentences = [
        f"The {name} {first}{'' if first == second else f', and {second}'}.",
        f"It comes in {len(_COLOURS)} colours and belongs to the {brand} collection.",
        dice.pick(_CLOSINGS).format(country=country),
    ]
    return " ".join(sentences[: 1 + int(dice.draw() * 3)])


def _categories(dice: _Dice, shelf: _Shelf) -> list[str]:
    department, path, extra = shelf.department, f"{shelf.department} > {shelf.name}", dice.pick(_EXTRA_CATEGORIES)
    return [[path], [department, path], [department, path, extra]][int(dice.draw() * 3)]


# Rows between two progress reports.
_REPORT_EVERY = 5000
# Comment of the table that records the size of the catalogue.
_MARK = "demo catalogue: "


async def fill(dsn: str, *, count: int, progress: Callable[[int], None]) -> int:
    """Extends the demo catalogue in a migrated database to at least `count` products. Returns how many it added.

    Uses one transaction, so that a killed start leaves nothing behind. Existing products stay as they are: demo products that
    have been changed, and the user's own with the same ID. Writes no outbox rows of products, because no cache can hold one
    that did not exist; this requires a superuser. Calls `progress` with the number of products created so far.
    """
    async with await Connection.connect(dsn) as connection, connection.begin():
        present = await _present(connection)
        if present >= count:
            return 0
        await connection.execute("SET LOCAL session_replication_role = replica")
        await connection.execute(_CREATE)
        await _copy(connection, islice(products(count), present, None), progress)
        added = await connection.execute(_INSERT)
        await connection.execute(f"COMMENT ON TABLE cache_sidecar.products IS '{_MARK}{count}'")
        await connection.execute("ANALYZE cache_sidecar.products")
        # Lists follow the outbox, which has none of these.
        await connection.execute("SELECT cache_sidecar.list_all_products()")
        return added.rowcount


async def _present(connection: Connection) -> int:
    """Returns the number of demo products that were added before."""
    cursor = await connection.execute("SELECT obj_description('cache_sidecar.products'::regclass, 'pg_class')")
    (comment,) = await cursor.fetchone() or (None,)
    return int(comment.removeprefix(_MARK)) if comment and comment.startswith(_MARK) else 0


async def _copy(connection: Connection, rows: Iterator[DemoProduct], progress: Callable[[int], None]) -> None:
    async with connection.cursor() as cursor, cursor.copy(_COPY) as copy:
        made = 0
        for made, row in enumerate(rows, start=1):
            values = row._replace(attributes=json.dumps(row.attributes))  # type: ignore[arg-type]
            await copy.write_row(values)
            if made % _REPORT_EVERY == 0:
                progress(made)
        progress(made)


_COLUMNS = ", ".join(DemoProduct._fields)
_CREATE = f"""CREATE TEMPORARY TABLE incoming ON COMMIT DROP AS
    SELECT {_COLUMNS} FROM cache_sidecar.products WITH NO DATA"""  # noqa: S608  # our own names
_COPY = f"COPY incoming ({_COLUMNS}) FROM STDIN"
# The triggers that assign versions and write the outbox are disabled.
_INSERT = f"""INSERT INTO cache_sidecar.products ({_COLUMNS}, version)
    SELECT {_COLUMNS}, nextval('cache_sidecar.version_seq') FROM incoming
    ON CONFLICT DO NOTHING"""  # noqa: S608  # our own names
