//! Matrices as .npy files.

use std::{
    io::{BufReader, Write},
    path::Path,
};

use anyhow::{Context, bail};
use npyz::{AutoSerialize, NpyFile, Order, WriterBuilder};
use search::Embeddings;

/// Writes [values / width, width], row after row, in the values' own type.
pub(crate) fn write<T: AutoSerialize + Copy>(
    out: &mut dyn Write,
    values: &[T],
    width: usize,
) -> anyhow::Result<()> {
    let shape = [(values.len() / width.max(1)) as u64, width as u64];
    write_array(out, values, &shape)
}

/// Writes a list of lengths, 64-bit.
pub(crate) fn write_lengths(out: &mut dyn Write, lengths: &[i64]) -> anyhow::Result<()> {
    write_array(out, lengths, &[lengths.len() as u64])
}

fn write_array<T: AutoSerialize + Copy>(
    out: &mut dyn Write,
    values: &[T],
    shape: &[u64],
) -> anyhow::Result<()> {
    let mut writer = npyz::WriteOptions::new()
        .default_dtype()
        .shape(shape)
        .writer(out)
        .begin_nd()?;
    writer.extend(values.iter().copied())?;
    Ok(writer.finish()?)
}

/// A matrix of f32, or of f64 rounded to that.
#[derive(Debug)]
pub(crate) struct Matrix {
    values: Vec<f32>,
    width: usize,
}

impl Matrix {
    /// Reads a file; `flag` is what messages call it.
    pub(crate) fn read(flag: &str, path: &Path) -> anyhow::Result<Self> {
        Self::read_file(path).with_context(|| format!("{flag} {}", path.display()))
    }

    fn read_file(path: &Path) -> anyhow::Result<Self> {
        let file = fs_err::File::open(path)?;
        let n_bytes = file.metadata()?.len();
        let array = NpyFile::new(BufReader::new(file)).context("can't be read as .npy")?;
        let (&[rows, width], Order::C) = (array.shape(), array.order()) else {
            bail!(
                "found an array of shape {:?}, but a matrix [n, dimension] in C order is needed",
                array.shape()
            );
        };
        // Asked before any memory is: a header may promise what the file does not hold.
        let n_values = rows.checked_mul(width).filter(|n| n / 4 <= n_bytes);
        if n_values.is_none() || width == 0 {
            bail!("the header promises [{rows}, {width}] values, which the file does not hold");
        }
        let values = match array.try_data::<f32>() {
            Ok(values) => values.collect::<Result<Vec<f32>, _>>()?,
            Err(array) => match array.try_data::<f64>() {
                Ok(values) => values
                    .map(|value| Ok(value? as f32))
                    .collect::<std::io::Result<Vec<f32>>>()?,
                Err(array) => bail!(
                    "found values of type {}, allowed: float32 or float64",
                    array.dtype().descr()
                ),
            },
        };
        Ok(Self {
            values,
            width: width as usize,
        })
    }

    /// The matrix, all of whose values must be finite.
    pub(crate) fn embeddings(&self) -> Result<Embeddings<'_>, search::SearchError> {
        Embeddings::new(&self.values, self.width)
    }
}
