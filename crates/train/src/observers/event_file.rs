//! Scalars in TensorBoard's event files.
//!
//! An event file is a row of TFRecord frames (length, masked CRC-32C of the length, payload, masked
//! CRC-32C of the payload; `tensorflow/core/lib/io/record_writer.h`), each holding one protobuf
//! `Event` (`tensorflow/core/util/event.proto`). The two messages needed are written by hand: the crates that
//! write them are unmaintained, and this is all that they would do here.

use std::{
    io::{self, Write},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use fs_err::File;

/// Writes one event file.
#[derive(Debug)]
pub(crate) struct EventWriter {
    file: File,
}

impl EventWriter {
    /// Starts an event file in `folder`, which is made where it is missing.
    ///
    /// # Errors
    /// When folder or file can't be written.
    pub(crate) fn create(folder: &Path) -> io::Result<Self> {
        fs_err::create_dir_all(folder)?;
        let now = seconds_since_epoch();
        let name = format!(
            "events.out.tfevents.{}.{}.sentune",
            now as u64,
            std::process::id()
        );
        let mut writer = Self {
            file: File::create(folder.join(name))?,
        };
        let mut event = Vec::new();
        put_double(&mut event, 1, now);
        put_bytes(&mut event, 3, b"brain.Event:2");
        writer.write_record(&event)?;
        Ok(writer)
    }

    /// Appends the scalars of one step.
    ///
    /// # Errors
    /// When the file can't be written.
    pub(crate) fn scalars<'a>(
        &mut self,
        step: u64,
        scalars: impl IntoIterator<Item = (&'a str, f64)>,
    ) -> io::Result<()> {
        let mut summary = Vec::new();
        for (tag, value) in scalars {
            let mut entry = Vec::new();
            put_bytes(&mut entry, 1, tag.as_bytes());
            put_float(&mut entry, 2, value as f32);
            put_bytes(&mut summary, 1, &entry);
        }
        let mut event = Vec::new();
        put_double(&mut event, 1, seconds_since_epoch());
        put_varint(&mut event, 2 << 3);
        put_varint(&mut event, step);
        put_bytes(&mut event, 5, &summary);
        self.write_record(&event)
    }

    /// Tells readers that the run goes on with `step`: events of this and later steps in other files of the folder
    /// are to be forgotten (`SessionLog.START`, as torch's `SummaryWriter` writes it for `purge_step`).
    ///
    /// # Errors
    /// When the file can't be written.
    pub(crate) fn restart(&mut self, step: u64) -> io::Result<()> {
        const START: u64 = 1;
        let mut log = Vec::new();
        put_varint(&mut log, 1 << 3);
        put_varint(&mut log, START);
        let mut event = Vec::new();
        put_double(&mut event, 1, seconds_since_epoch());
        put_varint(&mut event, 2 << 3);
        put_varint(&mut event, step);
        put_bytes(&mut event, 7, &log);
        self.write_record(&event)
    }

    fn write_record(&mut self, payload: &[u8]) -> io::Result<()> {
        let length = (payload.len() as u64).to_le_bytes();
        let mut record = Vec::with_capacity(payload.len() + 16);
        record.extend_from_slice(&length);
        record.extend_from_slice(&masked_crc(&length).to_le_bytes());
        record.extend_from_slice(payload);
        record.extend_from_slice(&masked_crc(payload).to_le_bytes());
        self.file.write_all(&record)
    }
}

fn seconds_since_epoch() -> f64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

/// TFRecord's masking, which keeps a checksum of data that holds checksums from being weak.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes)
        .rotate_right(15)
        .wrapping_add(0xa282_ead8)
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn put_bytes(out: &mut Vec<u8>, field: u64, bytes: &[u8]) {
    put_varint(out, field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_double(out: &mut Vec<u8>, field: u64, value: f64) {
    put_varint(out, field << 3 | 1);
    out.extend_from_slice(&value.to_le_bytes());
}

fn put_float(out: &mut Vec<u8>, field: u64, value: f32) {
    put_varint(out, field << 3 | 5);
    out.extend_from_slice(&value.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scalar_event_has_tensorboards_bytes() {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = EventWriter::create(folder.path()).unwrap();
        writer.restart(300).unwrap();
        writer.scalars(300, [("train/loss", 0.5)]).unwrap();
        let path = fs_err::read_dir(folder.path())
            .unwrap()
            .next()
            .unwrap()
            .unwrap()
            .path();
        let bytes = fs_err::read(path).unwrap();

        let (_, rest) = read_record(&bytes);
        let (restart, rest) = read_record(rest);
        let (event, rest) = read_record(rest);
        assert!(rest.is_empty());
        // Step 300, then session_log { status: START }.
        assert_eq!(restart[9..], [0x10, 0xac, 0x02, 0x3a, 0x02, 0x08, 0x01]);
        // Field 1 (wall time) takes nine bytes; what follows is fixed:
        // step 300, then summary { value { tag: "train/loss", simple_value: 0.5 } }.
        let mut expected = vec![0x10, 0xac, 0x02, 0x2a, 0x13, 0x0a, 0x11, 0x0a, 0x0a];
        expected.extend_from_slice(b"train/loss");
        expected.extend_from_slice(&[0x15, 0x00, 0x00, 0x00, 0x3f]);
        assert_eq!(&event[9..], expected);
    }

    /// The record's payload and what follows it; checks both checksums.
    fn read_record(bytes: &[u8]) -> (&[u8], &[u8]) {
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        assert_eq!(bytes[8..12], masked_crc(&bytes[..8]).to_le_bytes());
        let payload = &bytes[12..12 + length];
        assert_eq!(
            bytes[12 + length..16 + length],
            masked_crc(payload).to_le_bytes()
        );
        (payload, &bytes[16 + length..])
    }

    #[test]
    fn masked_checksum_is_tensorflows() {
        // CRC-32C of "123456789" is 0xe3069283 (RFC 3720, appendix B.4's polynomial).
        assert_eq!(
            masked_crc(b"123456789"),
            0xe306_9283u32.rotate_right(15).wrapping_add(0xa282_ead8)
        );
    }
}
