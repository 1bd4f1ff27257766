//! Arrow's stream and file format, in which Python's `datasets` saves to disk and keeps its cache.

use std::{collections::BTreeMap, io::Cursor};

use polars_arrow::io::ipc::read::{StreamReader, StreamState, read_stream_metadata};
use polars_arrow_format::ipc::{
    MessageHeaderRef, MessageRef, RecordBatchRef,
    planus::{self, ReadAsRoot},
};
use rayon::prelude::*;

use crate::{
    error::DataError,
    formats::{
        arrays::{Arrays, Kind, guarded},
        rows::{ColumnInfo, Consumer, File, ROWS_PER_TABLE, RawTable, Schema},
    },
    sampler::MAX_ROWS,
};

const FORMAT: &str = "Arrow";

/// First bytes of the file format, which is a stream with a table of contents at its end.
const MAGIC: &[u8] = b"ARROW1\0\0";

/// First bytes of each message of a stream.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// Reads the columns that the consumer chooses.
pub(crate) fn read(file: File<'_>, consumer: &mut dyn Consumer) -> Result<(), DataError> {
    let path = file.path;
    let stream = file.bytes.strip_prefix(MAGIC).unwrap_or(file.bytes);
    guarded(path, FORMAT, || check_messages(stream))?;
    let mut cursor = Cursor::new(stream);
    let metadata = guarded(path, FORMAT, || {
        read_stream_metadata(&mut cursor).map_err(|error| error.to_string())
    })?;
    let kinds: Vec<(String, Kind)> = metadata
        .schema
        .iter_values()
        .map(|field| (field.name.to_string(), Kind::of(&field.dtype)))
        .collect();
    let columns = kinds.iter().map(|(name, kind)| ColumnInfo {
        name: name.clone(),
        holds: kind.holds(),
    });
    let chosen = consumer.choose(&Schema {
        columns: columns.collect(),
        is_typed: true,
    })?;
    let readable = chosen.iter().filter(|&&place| kinds[place].1.is_readable());
    let mut projection: Vec<usize> = readable.copied().collect();
    projection.sort_unstable();
    let mut reader = StreamReader::new(cursor, metadata, Some(projection.clone()));
    let mut n_before = 0;
    while n_before < file.max_rows {
        let next = guarded(path, FORMAT, || {
            reader.next().transpose().map_err(|error| error.to_string())
        })?;
        // A stream that is cut off after a message has no end mark.
        let Some(StreamState::Some(batch)) = next else {
            break;
        };
        let n_rows = batch.len().min(file.max_rows - n_before);
        if n_before + n_rows > MAX_ROWS {
            return Err(DataError::TooManyRows {
                path: path.to_path_buf(),
                max: MAX_ROWS,
            });
        }
        let mut decoded = projection.iter().zip(batch.into_arrays());
        let mut decoded: BTreeMap<usize, Arrays> = decoded
            .by_ref()
            .map(|(&place, array)| (place, Arrays(vec![array])))
            .collect();
        let columns: Vec<Arrays> = chosen
            .iter()
            .map(|place| decoded.remove(place).unwrap_or(Arrays(Vec::new())))
            .collect();
        for start in (0..n_rows).step_by(ROWS_PER_TABLE) {
            let rows = start..n_rows.min(start + ROWS_PER_TABLE);
            let columns = columns
                .par_iter()
                .map(|arrays| guarded(path, FORMAT, || Ok(arrays.cells(rows.clone()))));
            consumer.take(RawTable {
                columns: columns.collect::<Result<_, _>>()?,
                n_rows: rows.len(),
                n_before: n_before + start,
                lines: None,
                defects: BTreeMap::new(),
            })?;
        }
        n_before += n_rows;
    }
    Ok(())
}

/// Walks over all messages. The decoder takes memory by the lengths in them, and memory that can't be had ends the
/// process.
fn check_messages(stream: &[u8]) -> Result<(), String> {
    let cut_off = || "the file is cut off".to_owned();
    let malformed = |error: planus::Error| format!("a message can't be read: {error}");
    let mut rest = stream;
    loop {
        rest = rest.strip_prefix(&CONTINUATION).unwrap_or(rest);
        let Some((length, after)) = rest.split_first_chunk() else {
            return Ok(());
        };
        let length = usize::try_from(i32::from_le_bytes(*length))
            .map_err(|_| "a message of negative length".to_owned())?;
        if length == 0 {
            return Ok(());
        }
        let (message, after) = after.split_at_checked(length).ok_or_else(cut_off)?;
        let message = MessageRef::read_as_root(message).map_err(malformed)?;
        let length = usize::try_from(message.body_length().map_err(malformed)?)
            .map_err(|_| "a message with a body of negative length".to_owned())?;
        let (_, after) = after.split_at_checked(length).ok_or_else(cut_off)?;
        match message.header().map_err(malformed)? {
            Some(MessageHeaderRef::RecordBatch(batch)) => check_batch(batch, length)?,
            Some(MessageHeaderRef::DictionaryBatch(batch)) => {
                if let Some(batch) = batch.data().map_err(malformed)? {
                    check_batch(batch, length)?;
                }
            }
            _ => {}
        }
        rest = after;
    }
}

/// Checks that all buffers lie within the body of the message.
fn check_batch(batch: RecordBatchRef<'_>, body: usize) -> Result<(), String> {
    let malformed = |error: planus::Error| format!("a message can't be read: {error}");
    if batch.compression().map_err(malformed)?.is_some() {
        return Err(
            "its columns are compressed: write it without compression, or as parquet".to_owned(),
        );
    }
    for buffer in batch.buffers().map_err(malformed)?.into_iter().flatten() {
        let range = usize::try_from(buffer.offset())
            .ok()
            .zip(usize::try_from(buffer.length()).ok());
        let end = range.and_then(|(start, length)| start.checked_add(length));
        if end.is_none_or(|end| end > body) {
            return Err("a column lies outside of its message".to_owned());
        }
    }
    Ok(())
}
