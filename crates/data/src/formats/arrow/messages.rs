//! The messages of an Arrow stream, checked, and unpacked where their columns are compressed.

use std::{borrow::Cow, io::Read};

use polars_arrow_format::ipc::{
    CompressionType, Message, MessageHeader, MessageRef, RecordBatch,
    planus::{self, Builder, ReadAsRoot},
};

use crate::formats::packed;

/// First bytes of each message of a stream.
const CONTINUATION: [u8; 4] = [0xff; 4];

/// The alignment of messages and columns.
const ALIGNMENT: usize = 8;

/// The stream without compression, of which every column lies within its message. The decoder takes memory by the lengths
/// in the messages, and memory that can't be had ends the process. It is built without decompression: to build it with that
/// would compile it again with crates that unpack a column of any length.
pub(super) fn checked(stream: &[u8]) -> Result<Cow<'_, [u8]>, String> {
    let cut_off = || "the file is cut off".to_owned();
    let mut unpacked: Option<Vec<u8>> = None;
    let mut n_left = packed::most_unpacked(stream.len());
    let mut rest = stream;
    loop {
        let start = rest;
        rest = rest.strip_prefix(&CONTINUATION).unwrap_or(rest);
        let Some((length, after)) = rest.split_first_chunk() else {
            break;
        };
        let length = usize::try_from(i32::from_le_bytes(*length))
            .map_err(|_| "a message of negative length".to_owned())?;
        if length == 0 {
            break;
        }
        let (metadata, after) = after.split_at_checked(length).ok_or_else(cut_off)?;
        let message = MessageRef::read_as_root(metadata).map_err(malformed)?;
        let length = usize::try_from(message.body_length().map_err(malformed)?)
            .map_err(|_| "a message with a body of negative length".to_owned())?;
        let (body, after) = after.split_at_checked(length).ok_or_else(cut_off)?;
        let mut message = Message::try_from(message).map_err(malformed)?;
        let is_packed = match columns_of(&mut message) {
            None => false,
            Some(columns) => {
                check_columns(columns, body)?;
                columns.compression.is_some()
            }
        };
        let end = stream.len() - after.len();
        let begin = stream.len() - start.len();
        if is_packed {
            let unpacked = unpacked.get_or_insert_with(|| stream[..begin].to_vec());
            write_unpacked(message, body, &mut n_left, unpacked)?;
        } else if let Some(unpacked) = &mut unpacked {
            unpacked.extend_from_slice(&stream[begin..end]);
        }
        rest = after;
    }
    // What follows the last message is not read.
    Ok(unpacked.map_or(Cow::Borrowed(stream), Cow::Owned))
}

fn malformed(error: planus::Error) -> String {
    format!("a message can't be read: {error}")
}

/// The columns of a message that has some.
fn columns_of(message: &mut Message) -> Option<&mut RecordBatch> {
    match message.header.as_mut()? {
        MessageHeader::RecordBatch(columns) => Some(columns),
        MessageHeader::DictionaryBatch(dictionary) => dictionary.data.as_deref_mut(),
        _ => None,
    }
}

/// Checks that all columns lie within the body of the message.
fn check_columns(columns: &RecordBatch, body: &[u8]) -> Result<(), String> {
    let buffers = columns.buffers.iter().flatten();
    for buffer in buffers {
        part(body, buffer.offset, buffer.length)?;
    }
    Ok(())
}

fn part(body: &[u8], offset: i64, length: i64) -> Result<&[u8], String> {
    usize::try_from(offset)
        .ok()
        .zip(usize::try_from(length).ok())
        .and_then(|(start, length)| body.get(start..start.checked_add(length)?))
        .ok_or_else(|| "a column lies outside of its message".to_owned())
}

/// Appends a message with its columns unpacked, of which at most `n_left` bytes may come.
fn write_unpacked(
    mut message: Message,
    body: &[u8],
    n_left: &mut u64,
    stream: &mut Vec<u8>,
) -> Result<(), String> {
    let mut unpacked = Vec::new();
    if let Some(columns) = columns_of(&mut message)
        && let Some(compression) = columns.compression.take()
    {
        for buffer in columns.buffers.iter_mut().flatten() {
            let packed = part(body, buffer.offset, buffer.length)?;
            let start = unpacked.len();
            unpack(packed, compression.codec, n_left, &mut unpacked)?;
            buffer.offset = start as i64;
            buffer.length = (unpacked.len() - start) as i64;
            unpacked.resize(unpacked.len().next_multiple_of(ALIGNMENT), 0);
        }
    }
    message.body_length = unpacked.len() as i64;
    let mut builder = Builder::new();
    let metadata = builder.finish(message, None);
    let length = metadata.len().next_multiple_of(ALIGNMENT);
    stream.extend(CONTINUATION);
    stream.extend((length as i32).to_le_bytes());
    stream.extend_from_slice(metadata);
    stream.extend(std::iter::repeat_n(0, length - metadata.len()));
    stream.extend(unpacked);
    Ok(())
}

/// Appends what a column unpacks to: its length comes first, or -1 where it is not compressed.
fn unpack(
    packed: &[u8],
    codec: CompressionType,
    n_left: &mut u64,
    unpacked: &mut Vec<u8>,
) -> Result<(), String> {
    let Some((length, packed)) = packed.split_first_chunk() else {
        return match packed.is_empty() {
            true => Ok(()),
            false => Err("a compressed column without its length".to_owned()),
        };
    };
    let length = i64::from_le_bytes(*length);
    let is_packed = length != -1;
    let length = match is_packed {
        false => packed.len() as u64,
        true => {
            u64::try_from(length).map_err(|_| format!("a compressed column of {length} bytes"))?
        }
    };
    *n_left = n_left.checked_sub(length).ok_or_else(|| {
        "its columns unpack to far more than texts do: write it again without compression"
            .to_owned()
    })?;
    if !is_packed {
        unpacked.extend_from_slice(packed);
        return Ok(());
    }
    let found = match codec {
        CompressionType::Lz4Frame => lz4::Decoder::new(packed)
            .and_then(|decoder| decoder.take(length + 1).read_to_end(unpacked)),
        CompressionType::Zstd => zstd::Decoder::with_buffer(packed)
            .and_then(|decoder| decoder.take(length + 1).read_to_end(unpacked)),
    };
    match found {
        Ok(found) if found as u64 == length => Ok(()),
        Ok(_) => Err(format!(
            "a compressed column has not the {length} bytes that it says"
        )),
        Err(error) => Err(format!("a compressed column can't be unpacked: {error}")),
    }
}
