//! From an event to a sentence.

use crate::{
    event::{Event, Party},
    lexicon::{
        ADJECTIVES, ASIDE_ADJECTIVES, ASIDES, COLOURS, COUNTS, INTRANSITIVE, KINDS, NOUNS, PLACES,
        THINGS, TIMES, TRANSITIVE,
    },
    random::Random,
};

/// The choice among several ways to say each thing: 0 the usual word, 1 the other.
#[derive(Debug, Clone)]
pub(crate) struct Wording {
    is_passive: bool,
    count: usize,
    adjective: usize,
    colour: usize,
    verb: usize,
    /// 0 `not`, 1 `never`.
    negation: usize,
    /// 2 says no more than outdoors or indoors.
    place: usize,
    time: usize,
    has_general_subject: bool,
    has_general_object: bool,
}

impl Wording {
    /// A premise's wording: usual words for the most part.
    pub(crate) fn draw(random: &mut Random) -> Self {
        let mut way = || usize::from(random.percent(30));
        Self {
            count: way(),
            adjective: way(),
            colour: way(),
            verb: way(),
            negation: way(),
            place: way(),
            time: way(),
            is_passive: random.percent(25),
            has_general_subject: false,
            has_general_object: false,
        }
    }

    /// Another wording, which says the same of `event` or something more general. What is denied must
    /// not become more general: who is not pushing a goat may be pushing another animal.
    pub(crate) fn rephrased(&self, event: &Event, random: &mut Random) -> Self {
        let is_affirmed = !event.action.is_negated;
        let mut way = |way: usize| if random.percent(65) { 1 - way } else { way };
        Self {
            count: way(self.count),
            adjective: way(self.adjective),
            colour: way(self.colour),
            verb: way(self.verb),
            negation: way(self.negation),
            time: way(self.time),
            place: if is_affirmed && random.percent(25) {
                2
            } else if random.percent(65) {
                1 - self.place
            } else {
                self.place
            },
            is_passive: self.is_passive ^ random.percent(50),
            has_general_subject: random.percent(60),
            has_general_object: is_affirmed && random.percent(40),
        }
    }
}

/// The sentence: lower case, single spaces, no full stop.
pub(crate) fn write(event: &Event, wording: &Wording) -> String {
    let mut words = Words::default();
    let subject =
        |words: &mut Words| party(words, &event.subject, wording, wording.has_general_subject);
    let action = &event.action;
    let auxiliary = |words: &mut Words, party: &Party| {
        words.push(if party.count == 0 { "is" } else { "are" });
        if action.is_negated {
            words.push(["not", "never"][wording.negation]);
        }
    };
    match &event.object {
        Some(object) => {
            let object_phrase =
                |words: &mut Words| party(words, object, wording, wording.has_general_object);
            let [active, passive] = TRANSITIVE[action.verb][action.side][wording.verb];
            if wording.is_passive {
                object_phrase(&mut words);
                auxiliary(&mut words, object);
                words.push("being");
                words.push(passive);
                words.push("by");
                subject(&mut words);
            } else {
                subject(&mut words);
                auxiliary(&mut words, &event.subject);
                words.push(active);
                object_phrase(&mut words);
            }
        }
        None => {
            subject(&mut words);
            auxiliary(&mut words, &event.subject);
            let verb = action.verb - TRANSITIVE.len();
            words.push(INTRANSITIVE[verb][action.side][wording.verb]);
        }
    }
    words.push(PLACES[event.place][wording.place]);
    if let Some(time) = event.time {
        words.push(TIMES[time][wording.time]);
    }
    if let Some(aside) = event.aside {
        words.push(ASIDES[aside]);
    }
    words.0
}

fn party(words: &mut Words, party: &Party, wording: &Wording, is_general: bool) {
    let is_plural = usize::from(party.count > 0);
    words.push(COUNTS[party.count][wording.count]);
    if let Some(aside) = party.aside {
        words.push(ASIDE_ADJECTIVES[aside]);
    }
    if let Some((adjective, side)) = party.adjective {
        words.push(ADJECTIVES[adjective][side][wording.adjective]);
    }
    let noun = &NOUNS[party.noun];
    let specific = [noun.singular, noun.plural];
    let forms = if is_general {
        KINDS[noun.kind]
    } else {
        specific
    };
    words.push(forms[is_plural]);
    if let Some((colour, thing)) = party.accessory {
        words.push("with");
        if is_plural == 0 {
            words.push("a");
        }
        words.push(COLOURS[colour][wording.colour]);
        words.push(THINGS[thing][is_plural]);
    }
}

/// Words with a space between them; an `a` becomes `an` where the next word asks for it.
#[derive(Default)]
struct Words(String);

impl Words {
    fn push(&mut self, words: &str) {
        let starts_with_vowel = words.starts_with(['a', 'e', 'i', 'o', 'u']);
        if starts_with_vowel && (self.0 == "a" || self.0.ends_with(" a")) {
            self.0.push('n');
        }
        if !self.0.is_empty() {
            self.0.push(' ');
        }
        self.0.push_str(words);
    }
}
