//! The words. Everything that can be said in two ways is a pair: the usual word and another that
//! means the same.

/// Someone who does something, or to whom it is done.
pub(crate) struct Noun {
    pub(crate) singular: &'static str,
    pub(crate) plural: &'static str,
    /// Index in [`KINDS`].
    pub(crate) kind: usize,
}

/// The more general nouns, singular and plural.
pub(crate) const KINDS: [[&str; 2]; 4] = [
    ["person", "people"],
    ["child", "children"],
    ["animal", "animals"],
    ["bird", "birds"],
];

const fn noun(kind: usize, singular: &'static str, plural: &'static str) -> Noun {
    Noun {
        singular,
        plural,
        kind,
    }
}

pub(crate) const NOUNS: [Noun; 30] = [
    noun(0, "man", "men"),
    noun(0, "woman", "women"),
    noun(0, "farmer", "farmers"),
    noun(0, "doctor", "doctors"),
    noun(0, "nurse", "nurses"),
    noun(0, "teacher", "teachers"),
    noun(0, "soldier", "soldiers"),
    noun(0, "painter", "painters"),
    noun(0, "sailor", "sailors"),
    noun(0, "baker", "bakers"),
    noun(0, "singer", "singers"),
    noun(1, "boy", "boys"),
    noun(1, "girl", "girls"),
    noun(1, "toddler", "toddlers"),
    noun(1, "pupil", "pupils"),
    noun(2, "dog", "dogs"),
    noun(2, "cat", "cats"),
    noun(2, "horse", "horses"),
    noun(2, "cow", "cows"),
    noun(2, "goat", "goats"),
    noun(2, "monkey", "monkeys"),
    noun(2, "bear", "bears"),
    noun(2, "lion", "lions"),
    noun(2, "fox", "foxes"),
    noun(2, "wolf", "wolves"),
    noun(3, "duck", "ducks"),
    noun(3, "goose", "geese"),
    noun(3, "eagle", "eagles"),
    noun(3, "owl", "owls"),
    noun(3, "parrot", "parrots"),
];

/// One to five, as the usual word and as another; a noun follows.
pub(crate) const COUNTS: [[&str; 2]; 5] = [
    ["a", "a single"],
    ["two", "a pair of"],
    ["three", "a trio of"],
    ["four", "a group of four"],
    ["five", "a group of five"],
];

/// Adjectives with their opposites.
pub(crate) const ADJECTIVES: [[[&str; 2]; 2]; 8] = [
    [["young", "youthful"], ["old", "elderly"]],
    [["big", "large"], ["little", "tiny"]],
    [["thin", "slim"], ["fat", "stout"]],
    [["happy", "cheerful"], ["sad", "gloomy"]],
    [["strong", "powerful"], ["weak", "feeble"]],
    [["calm", "peaceful"], ["angry", "furious"]],
    [["brave", "fearless"], ["scared", "frightened"]],
    [["hungry", "starving"], ["full", "sated"]],
];

/// Adjectives that nothing depends on.
pub(crate) const ASIDE_ADJECTIVES: [&str; 6] =
    ["local", "famous", "friendly", "curious", "busy", "clever"];

/// Each excludes the others.
pub(crate) const COLOURS: [[&str; 2]; 6] = [
    ["red", "crimson"],
    ["blue", "azure"],
    ["green", "emerald"],
    ["black", "ebony"],
    ["white", "snowy"],
    ["yellow", "golden"],
];

/// Accessories of a colour, singular and plural.
pub(crate) const THINGS: [[&str; 2]; 4] = [
    ["hat", "hats"],
    ["scarf", "scarves"],
    ["ribbon", "ribbons"],
    ["collar", "collars"],
];

/// Intransitive verbs, each with its opposite.
pub(crate) const INTRANSITIVE: [[[&str; 2]; 2]; 7] = [
    [["running", "sprinting"], ["resting", "relaxing"]],
    [["sleeping", "napping"], ["working", "toiling"]],
    [["laughing", "giggling"], ["crying", "weeping"]],
    [["arriving", "turning up"], ["leaving", "departing"]],
    [["shouting", "yelling"], ["whispering", "murmuring"]],
    [["rising", "getting up"], ["falling", "tumbling"]],
    [["smiling", "grinning"], ["frowning", "scowling"]],
];

/// A transitive verb: usual and other word, each as active and as passive participle.
pub(crate) type Transitive = [[&'static str; 2]; 2];

/// Transitive verbs, each with its opposite.
pub(crate) const TRANSITIVE: [[Transitive; 2]; 8] = [
    [
        [["pushing", "pushed"], ["shoving", "shoved"]],
        [["pulling", "pulled"], ["dragging", "dragged"]],
    ],
    [
        [["lifting", "lifted"], ["raising", "raised"]],
        [["lowering", "lowered"], ["dropping", "dropped"]],
    ],
    [
        [["helping", "helped"], ["assisting", "assisted"]],
        [["hindering", "hindered"], ["hampering", "hampered"]],
    ],
    [
        [["leading", "led"], ["guiding", "guided"]],
        [["following", "followed"], ["trailing", "trailed"]],
    ],
    [
        [["protecting", "protected"], ["guarding", "guarded"]],
        [["attacking", "attacked"], ["assaulting", "assaulted"]],
    ],
    [
        [["greeting", "greeted"], ["welcoming", "welcomed"]],
        [["ignoring", "ignored"], ["disregarding", "disregarded"]],
    ],
    [
        [["praising", "praised"], ["applauding", "applauded"]],
        [["scolding", "scolded"], ["criticising", "criticised"]],
    ],
    [
        [["catching", "caught"], ["capturing", "captured"]],
        [["freeing", "freed"], ["releasing", "released"]],
    ],
];

/// Each excludes the others; the third way to say it is more general.
pub(crate) const PLACES: [[&str; 3]; 12] = [
    ["in the forest", "in the woods", "outdoors"],
    ["on the beach", "on the shore", "outdoors"],
    ["on the street", "on the road", "outdoors"],
    ["by the river", "by the stream", "outdoors"],
    ["on the hill", "on the slope", "outdoors"],
    ["in the meadow", "in the field", "outdoors"],
    ["in the garden", "in the yard", "outdoors"],
    ["in the cellar", "in the basement", "indoors"],
    ["in the attic", "in the loft", "indoors"],
    ["in the barn", "in the stable", "indoors"],
    ["in the shop", "in the store", "indoors"],
    ["in the theatre", "in the playhouse", "indoors"],
];

/// Each excludes the others.
pub(crate) const TIMES: [[&str; 2]; 4] = [
    ["in the morning", "at dawn"],
    ["at noon", "at midday"],
    ["in the evening", "at dusk"],
    ["at night", "after dark"],
];

/// Phrases that nothing depends on.
pub(crate) const ASIDES: [&str; 6] = [
    "as usual",
    "once again",
    "for a while",
    "before the storm",
    "after a long week",
    "with great care",
];

/// The words that hold a sentence together.
const FUNCTION_WORDS: &str = "a an is are being by not never with";

/// All of the above.
pub(crate) fn phrases() -> impl Iterator<Item = &'static str> {
    let nouns = NOUNS.iter().flat_map(|noun| [noun.singular, noun.plural]);
    let places = PLACES.into_iter().flatten();
    let pairs = [&KINDS[..], &COUNTS, &COLOURS, &THINGS, &TIMES]
        .into_iter()
        .flatten()
        .flatten()
        .copied();
    let opposites = [&ADJECTIVES[..], &INTRANSITIVE]
        .into_iter()
        .flatten()
        .flatten()
        .flatten()
        .copied();
    let transitive = TRANSITIVE.into_iter().flatten().flatten().flatten();
    nouns
        .chain(pairs)
        .chain(opposites)
        .chain(transitive)
        .chain(places)
        .chain(ASIDE_ADJECTIVES)
        .chain(ASIDES)
        .chain([FUNCTION_WORDS])
}
