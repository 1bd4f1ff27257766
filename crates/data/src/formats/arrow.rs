//! Arrow's stream and file format, in which Python's `datasets` saves to disk and keeps its cache, and pandas its
//! feather files.

mod messages;

use std::{collections::BTreeMap, io::Cursor};

use polars_arrow::io::ipc::read::{StreamReader, StreamState, read_stream_metadata};

use crate::{
    error::DataError,
    formats::{
        arrays::{Arrays, Kind, guarded, take_decoded},
        rows::{ColumnInfo, Consumer, File, Schema},
    },
    sampler::MAX_ROWS,
};

const FORMAT: &str = "Arrow";

/// First bytes of the file format, which is a stream with a table of contents at its end.
const MAGIC: &[u8] = b"ARROW1\0\0";

/// Reads the columns that the consumer chooses.
pub(crate) fn read(file: File<'_>, consumer: &mut dyn Consumer) -> Result<(), DataError> {
    let path = file.path;
    let stream = file.bytes.strip_prefix(MAGIC).unwrap_or(file.bytes);
    let stream = guarded(path, FORMAT, || messages::checked(stream))?;
    let mut cursor = Cursor::new(stream.as_ref());
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
        take_decoded(path, FORMAT, &columns, n_rows, n_before, consumer)?;
        n_before += n_rows;
    }
    Ok(())
}
