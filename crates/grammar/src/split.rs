//! The parts that a data set is split into.

/// The combinations of subject and verb to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Split {
    /// Three in five of them.
    Train,
    /// One in five, to look at while training.
    Dev,
    /// One in five, to judge by at the end.
    Test,
}
