//! README.md of a trained model.

use std::path::Path;

use data::Dataset;
use model::SentenceTransformer;

use crate::{
    commands::train::{prepared::Prepared, results::Results},
    config::to_toml,
    flags::train::TrainFlags,
};

/// The header that the hub reads, then how the model was made and what it gained.
pub(super) fn model_card(
    flags: &TrainFlags,
    prepared: &Prepared,
    model: &SentenceTransformer,
    results: &Results,
) -> anyhow::Result<String> {
    let base = flags.model.as_str();
    let name = |path: &str| {
        path.trim_end_matches('/')
            .rsplit('/')
            .next()
            .unwrap_or(path)
            .to_owned()
    };
    let base_line = if Path::new(base).exists() {
        String::new()
    } else {
        format!("base_model: {base}\n")
    };
    let list = |of: &dyn Fn(&Dataset) -> String| {
        let parts: Vec<String> = prepared.datasets().map(of).collect();
        parts.join("; ")
    };
    let mut card = format!(
        "---\nlibrary_name: sentence-transformers\npipeline_tag: sentence-similarity\n{base_line}tags:\n- sentence-transformers\n- sentence-similarity\n- feature-extraction\n- dataset_size:{n_rows}\n- loss:{loss_name}\n---\n\n\
         # {base} fine-tuned on {data}\n\n\
         A sentence-transformers model that maps a text of up to {max_length} tokens to {dimension} dimensions, fine-tuned with sentune {version} from {base} on {n_rows} rows of {data} ({columns}) with {loss_name}.\n\n\
         ```python\nfrom sentence_transformers import SentenceTransformer\n\nmodel = SentenceTransformer(\"path/to/this/folder\")\nembeddings = model.encode([\"The weather is lovely today.\", \"It is sunny outside.\"])\nprint(model.similarity(embeddings, embeddings))\n```\n",
        base = name(base),
        data = list(&|dataset| dataset.name.clone()),
        n_rows = prepared.datasets().map(Dataset::n_rows).sum::<usize>(),
        columns = list(&|dataset| dataset.column_names().join(", ")),
        max_length = model.max_seq_length(),
        dimension = model.dimension(),
        loss_name = prepared.loss_names(),
        version = env!("CARGO_PKG_VERSION"),
    );
    if let (Some(before), Some(after)) = (&results.before, &results.after) {
        card += "\n## Evaluation\n\n| metric | before | after |\n|---|--:|--:|\n";
        for (key, before) in before.iter() {
            let after = after.get(key).unwrap_or(f64::NAN);
            card += &format!("| {key} | {before:.4} | {after:.4} |\n");
        }
    }
    card += &format!(
        "\n## Training\n\nThe configuration of the run:\n\n```toml\n{}```\n",
        to_toml(flags)?
    );
    Ok(card)
}
