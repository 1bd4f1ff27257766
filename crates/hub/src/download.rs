//! The verified, resumable download of one file.

use std::{io, path::Path};

use ureq::http::Method;

use crate::{
    cache::RepoFolder,
    client::{Client, Subject},
    error::HubError,
    listing::Entry,
    partial_file::{PartialFile, Target},
    retry::{Failure, Retries},
    watcher::Watcher,
};

/// A download that moved on by this many bytes gets all its retries again.
const WORTH_FRESH_RETRIES: u64 = 1 << 20;

impl Client<'_> {
    /// Brings one file of a commit into the cache's blobs and returns the blob's name.
    ///
    /// What arrived is kept in `<blob>.incomplete` (Python's name for it as well) until length and
    /// checksum are right; only then the blob takes its name.
    pub(crate) fn download(
        &self,
        repo: &RepoFolder,
        commit: &str,
        entry: &Entry,
        watcher: &mut dyn Watcher,
    ) -> Result<String, HubError> {
        let url = self.file_url(repo, commit, &entry.name);
        let subject = Subject::reading(repo, Some(&entry.name));
        let mut retries = Retries::new(self.config);
        loop {
            let facts = loop {
                match self.request(&Method::HEAD, &url, 0, &subject, watcher) {
                    Ok(answer) => break answer.facts,
                    Err(failure) => retries.wait(failure, watcher)?,
                }
            };
            let target = Target::new(&url, commit, entry, &facts)?;
            let blob = repo.blob(&target.blob);
            let _lock = repo.lock(&target.blob, watcher)?;
            // Blobs are named by their content, so one of the right length was fetched before.
            if fs_err::metadata(&blob).is_ok_and(|blob| blob.len() == target.size) {
                watcher.progress(&entry.name, target.size, target.size);
                return Ok(target.blob);
            }
            match self.fill(&url, &subject, &target, &blob, &mut retries, watcher)? {
                Filled::Whole => return Ok(target.blob),
                Filled::Changed(error) => {
                    retries.wait(Failure::may_pass(error), watcher)?;
                }
            }
        }
    }

    // Requests until the partial file is whole and its checksum is right.
    fn fill(
        &self,
        url: &str,
        subject: &Subject<'_>,
        target: &Target,
        blob: &Path,
        retries: &mut Retries<'_>,
        watcher: &mut dyn Watcher,
    ) -> Result<Filled, HubError> {
        let file = subject.file.unwrap_or_default();
        let mut partial = PartialFile::open(blob, target, watcher)?;
        let mut has_old_bytes = partial.len > 0;
        loop {
            watcher.progress(file, partial.len, target.size);
            while partial.len < target.size {
                let before = partial.len;
                let outcome = self.pour(url, subject, target, &mut partial, watcher);
                if before == 0 || partial.was_reset {
                    has_old_bytes = false;
                }
                let failure = match outcome {
                    Ok(()) => break,
                    Err(Pour::Changed(error)) => {
                        partial.remove()?;
                        return Ok(Filled::Changed(error));
                    }
                    Err(Pour::Failed(failure)) => failure,
                };
                if partial.len.saturating_sub(before) >= WORTH_FRESH_RETRIES {
                    retries.reset();
                }
                if let Err(error) = retries.wait(failure, watcher) {
                    // The error that stopped the download matters more than one while keeping the file.
                    let _ = partial.keep();
                    return Err(error);
                }
            }
            match partial.check(file, target) {
                Ok(()) => {
                    partial.finish(blob)?;
                    return Ok(Filled::Whole);
                }
                // Bytes from an earlier process may have been spoilt on the disk: once more, all of it.
                Err(error) if has_old_bytes => {
                    tracing::warn!("{error}; starting again from the first byte");
                    partial.reset()?;
                    has_old_bytes = false;
                }
                Err(error) => {
                    partial.remove()?;
                    return Err(error);
                }
            }
        }
    }

    // One GET for the missing bytes, into the partial file.
    fn pour(
        &self,
        url: &str,
        subject: &Subject<'_>,
        target: &Target,
        partial: &mut PartialFile,
        watcher: &mut dyn Watcher,
    ) -> Result<(), Pour> {
        let file = subject.file.unwrap_or_default();
        let answer = self.request(&Method::GET, url, partial.len, subject, watcher)?;
        if let (Some(etag), Some(announced)) = (&answer.facts.etag, &target.etag)
            && etag != announced
        {
            let reason =
                format!("the ETag changed from {announced} to {etag} between two requests");
            return Err(Pour::Changed(HubError::Protocol {
                url: url.to_owned(),
                reason,
            }));
        }
        match answer.status {
            206 if answer.range_start() == Some(partial.len)
                && answer.range_total_is(target.size) => {}
            206 | 416 => {
                partial.reset()?;
                let reason = format!(
                    "the answer is not the range that was asked for ({})",
                    answer.status
                );
                return Err(Pour::may_pass(HubError::Protocol {
                    url: url.to_owned(),
                    reason,
                }));
            }
            _ if partial.len > 0 => {
                tracing::info!(
                    "{file}: the server has no ranges, starting again from the first byte"
                );
                partial.reset()?;
            }
            _ => {}
        }
        if let Some(length) = answer.content_length()
            && length != target.size - partial.len
        {
            let found = partial.len.saturating_add(length);
            let error = HubError::Length {
                file: file.to_owned(),
                expected: target.size,
                found,
            };
            return Err(Pour::may_pass(error));
        }
        while let Some(chunk) = answer.next_chunk(watcher)? {
            if chunk.len() as u64 > target.size - partial.len {
                let found = partial.len + chunk.len() as u64;
                partial.reset()?;
                let error = HubError::Length {
                    file: file.to_owned(),
                    expected: target.size,
                    found,
                };
                return Err(Pour::Failed(Failure::Final(error)));
            }
            partial.write(&chunk)?;
            watcher.progress(file, partial.len, target.size);
        }
        if partial.len < target.size {
            let reason = format!(
                "the body ended after {} of {} bytes",
                partial.len, target.size
            );
            return Err(Pour::may_pass(HubError::Transport {
                url: url.to_owned(),
                reason,
            }));
        }
        Ok(())
    }
}

/// A failure of one GET into a partial file.
enum Pour {
    /// The file on the hub is another one than before.
    Changed(HubError),
    Failed(Failure),
}

impl Pour {
    fn may_pass(error: HubError) -> Self {
        Self::Failed(Failure::may_pass(error))
    }
}

impl From<Failure> for Pour {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<io::Error> for Pour {
    fn from(error: io::Error) -> Self {
        Self::Failed(Failure::Final(error.into()))
    }
}

/// The end of a download.
enum Filled {
    Whole,
    /// The file on the hub is another one than before; nothing was kept.
    Changed(HubError),
}
