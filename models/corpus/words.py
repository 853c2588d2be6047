"""The words that questions are about: short, common, in lower case."""

_WORDS = """
add age ant apple arm ask baby back bag ball band bank beach bean bear bed bee bell belt
best big bike bird bite black blow blue boat body bone book boot box boy bread broom brown
brush bug bus busy cake camp candy cap car card cart cat chair city clean clock cloud coat
coin cold cook corn cow cream cry cup dance dark day deep deer desk dish dog doll door draw
dream dress drink drum dry duck dust eagle ear early earth east easy edge egg empty end eye
face fair fall farm fast fat feet fence field fish five flag flat floor fly fog food foot
fork four fox free frog fruit full fun game gate giant girl give glad glass glue goat gold
good grass gray green grow hair half hall hand happy hat head heart heavy help hen hill home
honey hook horn horse hot house huge ice jam jar jet job joy juice jump keep key kind king
kite knee knife lake lamb lamp land large late laugh leaf leg lemon light lion lip long loud
love low lunch map mask meal meat milk moon mouse mouth mud music nail name neat neck nest
net new nice night nine nose nut oak ocean oil old olive one open owl page paint paper park
path paw pear pen pig pink pipe plan plate play plum pool pot puppy queen quick quiet race
rain red rice rich ride ring river road robe rock roof room root rope rose round rug run sad
safe sail salt sand save saw sea seat seed sharp sheep shelf ship shirt shoe shop short sing
sink six skin sky sleep slow small smile smoke snail snow soap sock soft song soup spoon
star steam step stone sugar sun sweet swim table tail tent thick thin tiger time tiny toe
top town toy train tray tree truck tub two under van vase vest walk wall warm wash water
wave west wet wheat wheel white wide wild wind wolf wood wool world worm yard year yes young
zebra
"""
WORDS = tuple(_WORDS.split())

_THINGS = """
bag ball bell belt bike boat book boot box broom brush cake cap car card cart chair coat coin
cup desk dish doll door drum flag fork gate glass hat jar key kite knife lamp map mask pen
plate pot ring robe rope rug shirt shoe sock spoon table tent toy truck tub van vase vest
"""
THINGS = tuple(_THINGS.split())
"""Those that can have a colour and lie somewhere."""

COLOURS = ("red", "blue", "green", "pink", "white", "black", "brown", "gray", "yellow", "gold")

VOWELS = "aeiou"

LETTERS = "abcdefghijklmnopqrstuvwxyz"
