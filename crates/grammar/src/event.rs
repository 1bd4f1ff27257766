//! The event that a sentence tells, with others that follow from it or contradict it.

use crate::{
    lexicon::{
        ADJECTIVES, ASIDE_ADJECTIVES, ASIDES, COLOURS, COUNTS, INTRANSITIVE, NOUNS, PLACES, THINGS,
        TIMES, TRANSITIVE,
    },
    random::Random,
    split::Split,
};

/// Someone, and how many and of what look. Numbers are indices in the lexicon's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Party {
    pub(crate) noun: usize,
    /// One less than the number.
    pub(crate) count: usize,
    /// Which adjective, and which of the two opposites.
    pub(crate) adjective: Option<(usize, usize)>,
    pub(crate) aside: Option<usize>,
    /// Colour and thing.
    pub(crate) accessory: Option<(usize, usize)>,
}

/// The verb of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Action {
    /// Index in the transitive verbs, or past them in the intransitive ones.
    pub(crate) verb: usize,
    /// Which of the two opposites.
    pub(crate) side: usize,
    pub(crate) is_negated: bool,
}

/// A scene: doer, verb, done-to, place and time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) subject: Party,
    pub(crate) action: Action,
    /// There for transitive verbs.
    pub(crate) object: Option<Party>,
    pub(crate) place: usize,
    pub(crate) time: Option<usize>,
    pub(crate) aside: Option<usize>,
}

/// The kinds of contradiction.
#[derive(Debug, Clone, Copy)]
enum Change {
    Verb,
    Adjective,
    Count,
    Colour,
    Place,
    Time,
    Negation,
    Roles,
}

/// Changes with their weights, where the event allows them.
const CHANGES: [(Change, usize); 8] = [
    (Change::Verb, 20),
    (Change::Adjective, 24),
    (Change::Count, 15),
    (Change::Colour, 20),
    (Change::Place, 10),
    (Change::Time, 12),
    (Change::Negation, 10),
    (Change::Roles, 10),
];

impl Event {
    pub(crate) fn draw(split: Split, random: &mut Random) -> Self {
        loop {
            let verb = random.below(TRANSITIVE.len() + INTRANSITIVE.len());
            let object = (verb < TRANSITIVE.len()).then(|| Party {
                noun: random.below(NOUNS.len()),
                count: 0,
                adjective: None,
                aside: None,
                accessory: None,
            });
            let event = Self {
                subject: Party {
                    noun: random.below(NOUNS.len()),
                    count: random.below(COUNTS.len()),
                    adjective: random
                        .maybe_below(50, 2 * ADJECTIVES.len())
                        .map(|i| (i / 2, i % 2)),
                    aside: random.maybe_below(30, ASIDE_ADJECTIVES.len()),
                    accessory: random
                        .maybe_below(35, COLOURS.len() * THINGS.len())
                        .map(|i| (i / THINGS.len(), i % THINGS.len())),
                },
                action: Action {
                    verb,
                    side: random.below(2),
                    is_negated: random.percent(12),
                },
                object,
                place: random.below(PLACES.len()),
                time: random.maybe_below(40, TIMES.len()),
                aside: random.maybe_below(40, ASIDES.len()),
            };
            // Doer and done-to must stay apart when both are generalised.
            let are_distinct = object
                .is_none_or(|object| NOUNS[object.noun].kind != NOUNS[event.subject.noun].kind);
            let is_of_split = event
                .parties()
                .all(|party| split_of(party.noun, verb) == split);
            if are_distinct && is_of_split {
                return event;
            }
        }
    }

    /// The event with less said of it. In a denial only the subject's side may lose something: who is
    /// not running in the forest may be running elsewhere.
    pub(crate) fn entailed(&self, random: &mut Random) -> Self {
        let mut entailed = *self;
        if random.percent(85) {
            entailed.subject.aside = None;
        }
        let droppable = if self.action.is_negated { 2 } else { 3 };
        if random.percent(30) {
            match random.below(droppable) {
                0 => entailed.subject.adjective = None,
                1 => entailed.subject.accessory = None,
                _ => entailed.time = None,
            }
        }
        if !self.action.is_negated && random.percent(85) {
            entailed.aside = None;
        }
        entailed
    }

    /// The event with one thing changed so that both can't be true of the same scene.
    pub(crate) fn contrary(&self, random: &mut Random) -> Self {
        let mut contrary = *self;
        match self.draw_change(random) {
            Change::Verb => contrary.action.side = 1 - self.action.side,
            Change::Adjective => {
                contrary.subject.adjective = self.subject.adjective.map(|(i, side)| (i, 1 - side));
            }
            Change::Count => {
                contrary.subject.count = random.below_but(COUNTS.len(), self.subject.count);
            }
            Change::Colour => {
                contrary.subject.accessory = self
                    .subject
                    .accessory
                    .map(|(colour, thing)| (random.below_but(COLOURS.len(), colour), thing));
            }
            Change::Place => contrary.place = random.below_but(PLACES.len(), self.place),
            Change::Time => {
                contrary.time = self.time.map(|time| random.below_but(TIMES.len(), time));
            }
            Change::Negation => contrary.action.is_negated = !self.action.is_negated,
            Change::Roles => {
                if let Some(object) = self.object {
                    contrary.subject = object;
                    contrary.object = Some(self.subject);
                }
            }
        }
        contrary
    }

    fn draw_change(&self, random: &mut Random) -> Change {
        let allowed = CHANGES
            .into_iter()
            .filter(|(change, _)| self.allows(*change));
        let mut at = random.below(allowed.clone().map(|(_, weight)| weight).sum());
        for (change, weight) in allowed {
            if at < weight {
                return change;
            }
            at -= weight;
        }
        Change::Negation
    }

    /// Two denials don't contradict each other, so a denial is only ever contradicted by affirming it.
    fn allows(&self, change: Change) -> bool {
        match change {
            Change::Negation => true,
            _ if self.action.is_negated => false,
            Change::Verb | Change::Count | Change::Place => true,
            Change::Adjective => self.subject.adjective.is_some(),
            Change::Colour => self.subject.accessory.is_some(),
            Change::Time => self.time.is_some(),
            Change::Roles => self.object.is_some(),
        }
    }

    fn parties(&self) -> impl Iterator<Item = Party> {
        [Some(self.subject), self.object].into_iter().flatten()
    }

    /// The noun of the subject with the verb, which stands for its opposite too.
    #[cfg(test)]
    pub(crate) fn combination(&self) -> (&'static str, usize) {
        (NOUNS[self.subject.noun].singular, self.action.verb)
    }
}

/// The split to which a noun with a verb belongs, as who acts or (so that roles can be swapped) is
/// acted on. A verb and its opposite go together, so that a contradiction stays on its premise's side.
fn split_of(noun: usize, verb: usize) -> Split {
    // The steps have no factor in common with 5, so each noun and each verb comes in all splits.
    match (3 * noun + 2 * verb + noun / 5) % 5 {
        0 => Split::Test,
        1 => Split::Dev,
        _ => Split::Train,
    }
}
