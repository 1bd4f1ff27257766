//! The model that `sentune eval` evaluates, with the settings of all evaluators.

use eval::{
    Evaluator, Inputs, Metrics, Options,
    bootstrap::{Bootstrap, Interval},
    csv::CsvTable,
    entry::{Entry, Side},
};
use model::{EncodeOptions, ModelError, SentenceTransformer};
use tch::Tensor;

use crate::{flags::eval::EvalFlags, models::side_encoding, session::Session};

/// The model under evaluation and the settings of all evaluators.
pub(super) struct Subject<'a> {
    pub(super) flags: &'a EvalFlags,
    pub(super) model: &'a SentenceTransformer,
    pub(super) encoding: EncodeOptions,
    pub(super) options: Options,
    /// How intervals are found, where they are asked for.
    pub(super) how: Option<Bootstrap>,
    pub(super) session: &'a Session,
}

impl Subject<'_> {
    /// The embeddings of texts under a bar: `[texts, dimension]`.
    pub(super) fn embed(
        &self,
        model: &SentenceTransformer,
        texts: &[&str],
        options: &EncodeOptions,
        what: &str,
    ) -> anyhow::Result<Tensor> {
        let bar = self.session.bar(what, texts.len());
        let embeddings = model.encode(texts, options, &mut self.session.following(&bar));
        bar.finish_and_clear();
        match embeddings {
            Err(ModelError::Stopped) => Err(self.session.interrupt.error()),
            embeddings => Ok(embeddings?),
        }
    }

    /// The embeddings of each column of texts, by its side.
    pub(super) fn embed_sides(
        &self,
        entry: &Entry,
        columns: &[Vec<String>],
        name: &str,
    ) -> anyhow::Result<Vec<Tensor>> {
        let one = |(i, texts): (usize, &Vec<String>)| {
            let (side, texts) = (entry.side(i), texts.iter().map(String::as_str));
            let what = match side {
                Side::Text => name.to_owned(),
                Side::Query => format!("{name}: queries"),
                Side::Document => format!("{name}: documents"),
            };
            let texts: Vec<&str> = texts.collect();
            self.embed(
                self.model,
                &texts,
                &side_encoding(&self.options, &self.encoding, side),
                &what,
            )
        };
        columns.iter().enumerate().map(one).collect()
    }

    /// The metrics of one evaluator.
    pub(super) fn evaluate(
        &self,
        evaluator: &dyn Evaluator,
        inputs: &Inputs<'_>,
        what: String,
    ) -> anyhow::Result<Evaluated> {
        let metrics = evaluator.evaluate(inputs)?;
        let rows = match &self.how {
            Some(how) => evaluator.rows(inputs)?.map(|rows| rows.intervals(how)),
            None => None,
        };
        Ok(Evaluated {
            what,
            intervals: rows.unwrap_or_default(),
            csv: vec![(evaluator.csv(), metrics.clone())],
            metrics,
        })
    }
}

/// The outcome of one evaluator.
pub(super) struct Evaluated {
    /// The rows, such as `60 triplets`.
    pub(super) what: String,
    pub(super) metrics: Metrics,
    /// Intervals by key, where they are asked for; not all metrics have one.
    pub(super) intervals: Vec<(String, Interval)>,
    /// The files that the metrics are appended to.
    pub(super) csv: Vec<(CsvTable, Metrics)>,
}
