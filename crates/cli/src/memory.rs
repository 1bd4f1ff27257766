//! The choice between training data in memory and token ids on disk.

use std::path::PathBuf;

use data::sampler::BatchSampler;

use crate::{
    cache,
    flags::train::{DataInMemory, TrainFlags},
    machine,
    usage::UsageError,
};

/// Bytes of memory that a byte of a file takes at the worst moment before training, of texts as they are and of those in
/// a compressed file.
const MEMORY_OF_BYTE: u64 = 8;
const MEMORY_OF_PACKED_BYTE: u64 = 20;

/// Bytes that a row may take, where there is a limit of rows.
const MEMORY_OF_ROW: u64 = 16 << 10;

/// Whether the training data in these files is to be on disk. The choice is logged where it is not beyond doubt.
///
/// # Errors
/// Where it must not be in memory, and something in the run needs it there.
pub(crate) fn is_on_disk(flags: &TrainFlags, files: &[PathBuf]) -> Result<bool, UsageError> {
    let reason = needs_memory(flags);
    match (flags.data_in_memory, reason) {
        (DataInMemory::Always, _) => Ok(false),
        (DataInMemory::Never, None) => Ok(true),
        (DataInMemory::Never, Some(reason)) => Err(UsageError(format!(
            "--data-in-memory never: {reason}, or give --data-in-memory always"
        ))),
        (DataInMemory::Auto, reason) => {
            let needed = needed(flags, files);
            let Some(available) = available() else {
                return Ok(false);
            };
            // Model, gradient and moments want some too.
            let is_too_large = needed > available / 4 * 3;
            if is_too_large {
                tracing::info!(
                    "the training data may take up to {} of memory, of which {} are free: {}",
                    gigabytes(needed),
                    gigabytes(available),
                    match &reason {
                        None => "its token ids go to disk (--data-in-memory auto)".to_owned(),
                        Some(reason) => format!("it is in memory all the same, since {reason}"),
                    }
                );
            }
            Ok(is_too_large && reason.is_none())
        }
    }
}

/// The part of a run that needs the texts in memory, with what to do without.
fn needs_memory(flags: &TrainFlags) -> Option<String> {
    let has_guide = |loss: &losses::LossConfig| {
        let requirements = loss.requirements();
        requirements.is_ok_and(|requirements| requirements.guide)
    };
    let guided = flags.loss.iter().find(|loss| has_guide(&loss.value));
    if flags.teacher.is_some() {
        return Some("--teacher embeds all texts: leave it out".to_owned());
    }
    if let Some(guided) = guided {
        return Some(format!(
            "the guide of --loss {guided} tokenizes all texts: choose another loss"
        ));
    }
    if flags.arguments.batch_sampler == BatchSampler::GroupByLabel {
        let reason = "--batch-sampler group_by_label looks at all labels: choose another sampler";
        return Some(reason.to_owned());
    }
    if !flags.call.token_cache {
        let reason = "the token ids on disk are in the token cache: leave out --token-cache=false";
        return Some(reason.to_owned());
    }
    if cache::folder().is_none() {
        let reason = "there is no folder for the token ids on disk: name one with SENTUNE_CACHE";
        return Some(reason.to_owned());
    }
    None
}

/// The memory that the data in files may take.
fn needed(flags: &TrainFlags, files: &[PathBuf]) -> u64 {
    let of_file = |path: &PathBuf| {
        let n_bytes = std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        let ending = path.extension().and_then(|ending| ending.to_str());
        match ending {
            Some("parquet" | "gz" | "zst" | "zstd") => MEMORY_OF_PACKED_BYTE * n_bytes,
            _ => MEMORY_OF_BYTE * n_bytes,
        }
    };
    let of_rows = flags
        .max_train_samples
        .map_or(u64::MAX, |n| MEMORY_OF_ROW.saturating_mul(n as u64));
    files.iter().map(of_file).sum::<u64>().min(of_rows)
}

/// The memory that is free: the system's, or what is left of the limit of this process's control group.
fn available() -> Option<u64> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let of_system = machine::available_memory()?;
    let number = |path: &str| read(path)?.trim().parse::<u64>().ok();
    let limit = number("/sys/fs/cgroup/memory.max");
    let used = number("/sys/fs/cgroup/memory.current");
    let of_group = limit
        .zip(used)
        .map(|(limit, used)| limit.saturating_sub(used));
    Some(of_group.map_or(of_system, |left| left.min(of_system)))
}

/// A number of bytes for a message.
pub(crate) fn gigabytes(n_bytes: u64) -> String {
    format!("{:.3} GB", n_bytes as f64 / 1e9)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(choice: DataInMemory) -> TrainFlags {
        TrainFlags {
            data_in_memory: choice,
            ..TrainFlags::default()
        }
    }

    #[test]
    fn auto_goes_by_size() {
        let folder = tempfile::tempdir().unwrap();
        let [small, large, packed] = ["a.csv", "b.csv", "c.parquet"].map(|n| folder.path().join(n));
        fs_err::write(&small, "anchor,positive\n").unwrap();
        // Files with nothing in them, which take no disk.
        let n_bytes = available().unwrap() / MEMORY_OF_BYTE;
        let lengths = [(&large, n_bytes), (&packed, n_bytes / 2)];
        for (path, length) in lengths {
            fs_err::File::create(path).unwrap().set_len(length).unwrap();
        }
        let is_on_disk = |flags: &TrainFlags, path: &PathBuf| {
            is_on_disk(flags, std::slice::from_ref(path)).unwrap()
        };
        let auto = flags(DataInMemory::Auto);
        assert!(!is_on_disk(&auto, &small));
        assert!(is_on_disk(&auto, &large));
        assert!(is_on_disk(&auto, &packed));
        let few = TrainFlags {
            max_train_samples: Some(100),
            ..auto.clone()
        };
        assert!(!is_on_disk(&few, &large));
        assert!(!is_on_disk(&flags(DataInMemory::Always), &large));
        assert!(is_on_disk(&flags(DataInMemory::Never), &small));
    }

    #[test]
    fn never_names_what_needs_the_texts() {
        for (line, words) in [
            ("teacher", "--teacher"),
            ("guide", "the guide of --loss"),
            ("grouped", "group_by_label"),
            ("uncached", "--token-cache=false"),
        ] {
            let mut flags = flags(DataInMemory::Never);
            match line {
                "teacher" => flags.teacher = Some("model".to_owned()),
                "guide" => flags.loss = vec!["gist-embed:guide=model".parse().unwrap()],
                "grouped" => flags.arguments.batch_sampler = BatchSampler::GroupByLabel,
                _ => flags.call.token_cache = false,
            }
            let message = is_on_disk(&flags, &[]).unwrap_err().to_string();
            assert!(message.contains(words), "{message}");
            assert!(message.contains("--data-in-memory always"), "{message}");
            flags.data_in_memory = DataInMemory::Auto;
            assert!(!is_on_disk(&flags, &[]).unwrap());
        }
    }
}
