"""Tables of plain facts and words: what the demo model is asked to know by heart."""


def words(text: str) -> list[str]:
    """The words of a text, as a list: easier to read and edit than a column of strings."""
    return text.split()


CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "Greece": "Athens",
    "Austria": "Vienna",
    "Hungary": "Budapest",
    "Poland": "Warsaw",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Iceland": "Reykjavik",
    "Ireland": "Dublin",
    "Belgium": "Brussels",
    "Switzerland": "Bern",
    "Croatia": "Zagreb",
    "Serbia": "Belgrade",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia",
    "Estonia": "Tallinn",
    "Latvia": "Riga",
    "Lithuania": "Vilnius",
    "Ukraine": "Kyiv",
    "Turkey": "Ankara",
    "Egypt": "Cairo",
    "Morocco": "Rabat",
    "Kenya": "Nairobi",
    "Ghana": "Accra",
    "Senegal": "Dakar",
    "Ethiopia": "Addis Ababa",
    "Japan": "Tokyo",
    "China": "Beijing",
    "India": "New Delhi",
    "Nepal": "Kathmandu",
    "Thailand": "Bangkok",
    "Vietnam": "Hanoi",
    "Mongolia": "Ulaanbaatar",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Canada": "Ottawa",
    "Mexico": "Mexico City",
    "Cuba": "Havana",
    "Brazil": "Brasilia",
    "Argentina": "Buenos Aires",
    "Chile": "Santiago",
    "Peru": "Lima",
    "Colombia": "Bogota",
    "Ecuador": "Quito",
    "Australia": "Canberra",
    "New Zealand": "Wellington",
}

# every word stands in one pair only, so that each question has one answer
OPPOSITES = [
    ("hot", "cold"),
    ("big", "small"),
    ("tall", "short"),
    ("fast", "slow"),
    ("old", "young"),
    ("wet", "dry"),
    ("light", "dark"),
    ("full", "empty"),
    ("open", "closed"),
    ("happy", "sad"),
    ("rich", "poor"),
    ("strong", "weak"),
    ("loud", "quiet"),
    ("hard", "soft"),
    ("high", "low"),
    ("early", "late"),
    ("near", "far"),
    ("thick", "thin"),
    ("clean", "dirty"),
    ("good", "bad"),
    ("right", "wrong"),
    ("true", "false"),
    ("first", "last"),
    ("day", "night"),
    ("summer", "winter"),
    ("up", "down"),
    ("inside", "outside"),
    ("begin", "end"),
    ("push", "pull"),
    ("buy", "sell"),
    ("win", "lose"),
    ("give", "take"),
    ("love", "hate"),
    ("remember", "forget"),
    ("laugh", "cry"),
    ("always", "never"),
    ("many", "few"),
    ("brave", "afraid"),
    ("wide", "narrow"),
    ("deep", "shallow"),
    ("sharp", "blunt"),
    ("sweet", "sour"),
    ("north", "south"),
    ("east", "west"),
]

PLURALS = {
    "mouse": "mice",
    "goose": "geese",
    "foot": "feet",
    "tooth": "teeth",
    "man": "men",
    "woman": "women",
    "child": "children",
    "ox": "oxen",
    "leaf": "leaves",
    "wolf": "wolves",
    "knife": "knives",
    "shelf": "shelves",
    "thief": "thieves",
    "half": "halves",
    "baby": "babies",
    "city": "cities",
    "story": "stories",
    "berry": "berries",
    "lady": "ladies",
    "fly": "flies",
    "box": "boxes",
    "fox": "foxes",
    "bus": "buses",
    "glass": "glasses",
    "dish": "dishes",
    "watch": "watches",
    "peach": "peaches",
    "brush": "brushes",
    "potato": "potatoes",
    "tomato": "tomatoes",
    "hero": "heroes",
    "echo": "echoes",
    "cat": "cats",
    "dog": "dogs",
    "tree": "trees",
    "book": "books",
    "river": "rivers",
    "key": "keys",
    "day": "days",
    "boy": "boys",
    "piano": "pianos",
    "roof": "roofs",
    "house": "houses",
    "horse": "horses",
    "apple": "apples",
    "window": "windows",
}

LEGS = {
    "spider": 8,
    "scorpion": 8,
    "ant": 6,
    "bee": 6,
    "beetle": 6,
    "butterfly": 6,
    "crab": 10,
    "lobster": 10,
    "dog": 4,
    "cat": 4,
    "horse": 4,
    "cow": 4,
    "frog": 4,
    "lizard": 4,
    "elephant": 4,
    "duck": 2,
    "hen": 2,
    "owl": 2,
    "penguin": 2,
    "ostrich": 2,
    "snake": 0,
    "fish": 0,
    "snail": 0,
    "whale": 0,
    "worm": 0,
}

SOUNDS = {
    "cow": "moo",
    "dog": "woof",
    "cat": "meow",
    "duck": "quack",
    "sheep": "baa",
    "pig": "oink",
    "hen": "cluck",
    "owl": "hoot",
    "bee": "buzz",
    "lion": "roar",
    "snake": "hiss",
    "frog": "croak",
    "horse": "neigh",
    "mouse": "squeak",
    "wolf": "howl",
    "crow": "caw",
}

YOUNG = {
    "dog": "puppy",
    "cat": "kitten",
    "cow": "calf",
    "horse": "foal",
    "sheep": "lamb",
    "pig": "piglet",
    "hen": "chick",
    "duck": "duckling",
    "goose": "gosling",
    "bear": "cub",
    "deer": "fawn",
    "goat": "kid",
    "kangaroo": "joey",
    "frog": "tadpole",
    "swan": "cygnet",
    "owl": "owlet",
}

COLOURS = {
    "grass": "green",
    "snow": "white",
    "a banana": "yellow",
    "a lemon": "yellow",
    "a tomato": "red",
    "a strawberry": "red",
    "blood": "red",
    "coal": "black",
    "milk": "white",
    "a carrot": "orange",
    "a pumpkin": "orange",
    "chocolate": "brown",
    "an elephant": "grey",
    "a flamingo": "pink",
    "a violet": "purple",
    "a crow": "black",
    "a frog": "green",
    "salt": "white",
    "a cucumber": "green",
    "a clear sky": "blue",
    "a fire engine": "red",
}

CATEGORIES = {
    "an animal": ["dog", "horse", "tiger", "rabbit", "camel", "monkey", "goat", "bear"],
    "a bird": ["owl", "eagle", "sparrow", "parrot", "penguin", "robin", "swan", "crow"],
    "a fish": ["salmon", "tuna", "herring", "trout", "cod", "shark"],
    "an insect": ["ant", "bee", "beetle", "butterfly", "wasp", "moth"],
    "a fruit": ["banana", "apple", "pear", "cherry", "mango", "grape", "plum", "lemon"],
    "a vegetable": ["carrot", "onion", "cabbage", "turnip", "radish", "leek"],
    "a flower": ["rose", "tulip", "daisy", "lily", "violet", "orchid"],
    "a tree": ["oak", "birch", "pine", "maple", "willow", "beech"],
    "a tool": ["hammer", "saw", "drill", "shovel", "wrench", "axe"],
    "a vehicle": ["car", "bus", "lorry", "bicycle", "tram", "train"],
    "an instrument": ["violin", "piano", "flute", "trumpet", "drum", "guitar"],
    "a metal": ["iron", "copper", "silver", "tin", "zinc", "gold"],
    "a planet": ["Mars", "Venus", "Jupiter", "Saturn", "Neptune", "Mercury"],
    "a piece of furniture": ["table", "chair", "sofa", "desk", "wardrobe", "shelf"],
    "a piece of clothing": ["shirt", "coat", "sock", "hat", "glove", "scarf"],
    "a drink": ["tea", "coffee", "milk", "juice", "water", "lemonade"],
}

# unit -> (smaller unit, how many of them, the largest count asked about)
UNITS = {
    "metre": ("centimetre", 100, 99),
    "kilometre": ("metre", 1000, 99),
    "kilogram": ("gram", 1000, 99),
    "litre": ("millilitre", 1000, 99),
    "centimetre": ("millimetre", 10, 99),
    "euro": ("cent", 100, 99),
    "hour": ("minute", 60, 12),
    "minute": ("second", 60, 12),
    "day": ("hour", 24, 10),
    "week": ("day", 7, 20),
    "year": ("month", 12, 12),
    "decade": ("year", 10, 60),
    "century": ("year", 100, 60),
    "dozen": ("egg", 12, 12),
}

DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]

WORDS = words(
    "apple bread chair dream eagle field garden house island jacket kitchen ladder market needle orange pencil "
    "queen river school table under violin water yellow zebra bridge candle dinner engine forest guitar hammer "
    "insect jungle kettle lemon mirror number ocean planet rabbit silver tiger uncle village window winter summer "
    "spring autumn basket button camera danger escape flower ginger honey idea jelly knife lion magic nurse onion "
    "paper quiet rocket spoon train umbrella voice wheel yacht anchor beach cloud doctor earth farmer ghost happy "
    "iron juice king light money night open piano quick road stone teacher useful visit wood young ball cake door "
    "fish gold hand jump kite lamp moon nest park rain sand tree wall bird boat coat desk duck frog goat hill "
    "leaf milk nose page ring ship star wind wolf bear bell blue book corn dark deer east farm fire game girl "
    "grass green horse mouse music north plant sheep sleep snow south storm street sugar sun sweet thunder tower "
    "train travel valley west white world"
)

REVERSIBLE = words(
    "stop live star draw part time tops pots snap spin step trap loop pool room moor keep peek lamp palm cat dog "
    "sun hat red blue green book cake door fish gold hand jump kite moon nest park rain sand tree wall bird boat "
    "coat desk duck frog goat hill leaf milk nose page ring ship wind wolf bear bell corn dark deer east farm "
    "fire game girl word snow seed salt soup tea top net bag pen cup map bed fox owl ant bee egg ice key leg log "
    "nut pig rat sea sky toe van web zoo arm box bus car cow day ear fan jam lip mud oak pot rug saw tin wax yes "
    "big dry far hot low new old sad wet"
)

NAMES = words(
    "Mia Tom Anna Ben Clara David Emma Felix Grace Hugo Ida Jack Kate Leo Nora Oscar Paula Ravi Sara Theo Vera "
    "Will Zoe Amir Lina Omar Rosa Finn Ella Max"
)
GIRLS = set(words("Mia Anna Clara Emma Grace Ida Kate Nora Paula Sara Vera Zoe Lina Rosa Ella"))

PLACES_TO_LIVE = words("Oslo Paris Rome Cairo Lima Tokyo Dublin Quito Berlin Madrid Vienna Lisbon")
PAINTS = words("red blue green yellow white black brown pink grey purple")
THINGS = words("ball kite book hat cup bag coat drum lamp box boat bell pen ring car")
COUNTABLES = words("apples books coins shells pears stamps eggs cards stones cakes nuts pens")
ANIMALS = words("fox rabbit bear mouse owl duck frog hen wolf cat dog horse goat lion hedgehog squirrel")
