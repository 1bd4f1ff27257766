//! Panels, tiles and the inner loop.
//!
//! Both matrices are cut along k into blocks, and a block into panels: [`ROWS`] rows of op(A), or
//! [`Format::COLUMNS`] columns of op(B). A panel holds the operands of the inner loop, step after step: 12
//! dwords of A, each to be broadcast, and 128 bytes of B. A step is one k in fp16 (the dword
//! holds the value twice, since broadcasting 16 bits would take the port that multiplies) and two in bf16
//! (the dword and each column hold the pair).

use std::{arch::x86_64::*, sync::Mutex};

use rayon::prelude::*;

use super::{Kind, RUN, Shape};

/// Rows of a tile: 12 rows of two registers leave eight of the 32 for B and broadcasts.
const ROWS: usize = 12;
/// Dwords of B that a step reads: two registers.
const WIDTH: usize = 32;
/// Length of a block along k: its panel of B, 128 KiB in fp16, stays in the second-level cache with a
/// group of panels of A.
const BLOCK: usize = 1024;
/// Steps of B's panel that stay in the first-level cache: 32 KiB.
const CACHED: usize = 256;
/// Panels of A that a task keeps in its cache: 768 KiB.
const GROUP: usize = 16;

/// Packed matrices, reused from call to call.
#[derive(Debug, Default)]
pub(super) struct Packed(Mutex<Buffers>);

#[derive(Debug, Default)]
struct Buffers {
    a: Vec<u32>,
    b: Vec<u32>,
    a_scales: Vec<f32>,
    b_scales: Vec<f32>,
}

pub(super) fn has_bf16() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512bf16")
}

pub(super) fn has_fp16() -> bool {
    has_avx512() && is_x86_feature_detected!("avx512fp16")
}

fn has_avx512() -> bool {
    is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512dq")
        && is_x86_feature_detected!("avx512vl")
}

/// Computes C = alpha op(A) op(B) + beta C in bf16.
///
/// # Safety
/// The processor must have what [`has_bf16`] asks for.
#[expect(clippy::too_many_arguments, reason = "the arguments of a GEMM")]
pub(super) unsafe fn bf16(
    packed: &Packed,
    kind: Kind,
    shape: Shape,
    alpha: f32,
    a: &[f32],
    b: &[f32],
    beta: f32,
    c: &mut [f32],
) {
    product::<Bf16>(packed, kind, shape, alpha, a, b, beta, c);
}

/// Computes C = alpha op(A) op(B) + beta C in fp16.
///
/// # Safety
/// The processor must have what [`has_fp16`] asks for.
#[expect(clippy::too_many_arguments, reason = "the arguments of a GEMM")]
pub(super) unsafe fn fp16(
    packed: &Packed,
    kind: Kind,
    shape: Shape,
    alpha: f32,
    a: &[f32],
    b: &[f32],
    beta: f32,
    c: &mut [f32],
) {
    product::<Fp16>(packed, kind, shape, alpha, a, b, beta, c);
}

/// A number format: it packs panels and computes tiles. All methods require that the processor has the
/// format's instructions, which callers of [`bf16`] and [`fp16`] promise.
trait Format {
    /// Columns of a tile.
    const COLUMNS: usize;

    fn steps(k: usize) -> usize;

    /// Returns the power of two by which a panel is multiplied.
    fn scale(source: &Source<'_>, panel: Panel) -> f32;

    fn pack_a(source: &Source<'_>, panel: Panel, scale: f32, out: &mut [u32]);

    fn pack_b(source: &Source<'_>, panel: Panel, scale: f32, out: &mut [u32]);

    /// Computes C = scale op(A) op(B) + beta C for a tile and its panels.
    fn tile(a: &[u32], b: &[u32], scale: f32, tile: Tile);
}

struct Bf16;
struct Fp16;

/// An operand, `lines` by k, where lines are rows of op(A) or columns of op(B).
#[derive(Clone, Copy)]
struct Source<'a> {
    values: &'a [f32],
    lines: usize,
    k: usize,
    /// Whether the values of a line are adjacent, rather than the values of one k.
    is_along_k: bool,
}

/// Some lines of a [`Source`] in a block of k.
#[derive(Clone, Copy)]
struct Panel {
    first_line: usize,
    n_lines: usize,
    first_k: usize,
    n_k: usize,
}

impl Source<'_> {
    fn panel(&self, index: usize, width: usize, first_k: usize, n_k: usize) -> Panel {
        let first_line = index * width;
        Panel {
            first_line,
            n_lines: width.min(self.lines - first_line),
            first_k,
            n_k,
        }
    }

    /// Returns the values from `line` and `k` on.
    fn from(&self, line: usize, k: usize) -> &[f32] {
        if self.is_along_k {
            &self.values[line * self.k + k..]
        } else {
            &self.values[k * self.lines + line..]
        }
    }

    /// Returns the contiguous runs of memory that make up a panel.
    fn runs(&self, panel: Panel) -> impl Iterator<Item = &[f32]> {
        let (n_runs, len) = if self.is_along_k {
            (panel.n_lines, panel.n_k)
        } else {
            (panel.n_k, panel.n_lines)
        };
        (0..n_runs).map(move |run| {
            let (line, k) = if self.is_along_k { (run, 0) } else { (0, run) };
            &self.from(panel.first_line + line, panel.first_k + k)[..len]
        })
    }
}

/// Matrix C, whose tiles several threads write.
#[derive(Clone, Copy)]
struct Target {
    c: *mut f32,
    m: usize,
    n: usize,
    beta: f32,
}

// SAFETY: every tile is written by one task, and tiles do not overlap.
unsafe impl Send for Target {}
// SAFETY: as above.
unsafe impl Sync for Target {}

impl Target {
    /// Returns the tile that begins at this row and column.
    fn tile(&self, row: usize, column: usize) -> Tile {
        assert!(row < self.m && column < self.n, "a tile within C");
        Tile {
            // SAFETY: the element is within C, as just checked.
            c: unsafe { self.c.add(row * self.n + column) },
            stride: self.n,
            n_rows: ROWS.min(self.m - row),
            n_columns: self.n - column,
            beta: self.beta,
        }
    }
}

/// A tile of C, cut off at C's last row and column.
struct Tile {
    c: *mut f32,
    stride: usize,
    n_rows: usize,
    n_columns: usize,
    beta: f32,
}

impl Tile {
    /// Computes C = values + beta C for up to 16 columns of a row of the tile, those that C has.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn update(&mut self, row: usize, column: usize, values: __m512) {
        if row >= self.n_rows || column >= self.n_columns {
            return;
        }
        let mask = first(self.n_columns - column);
        // SAFETY: row and column are within C, the mask excludes columns beyond it, and no other task
        // has this tile.
        unsafe {
            let c = self.c.add(row * self.stride + column);
            let values = if self.beta == 0.0 {
                values
            } else {
                let old = _mm512_maskz_loadu_ps(mask, c);
                _mm512_fmadd_ps(_mm512_set1_ps(self.beta), old, values)
            };
            _mm512_mask_storeu_ps(c, mask, values);
        }
    }
}

#[expect(clippy::too_many_arguments, reason = "the arguments of a GEMM")]
fn product<F: Format>(
    packed: &Packed,
    kind: Kind,
    shape: Shape,
    alpha: f32,
    a: &[f32],
    b: &[f32],
    beta: f32,
    c: &mut [f32],
) {
    let Shape { m, n, k } = shape;
    assert_eq!(a.len(), m * k, "A of {kind:?} {shape:?}");
    assert_eq!(b.len(), k * n, "B of {kind:?} {shape:?}");
    assert_eq!(c.len(), m * n, "C of {kind:?} {shape:?}");
    if m == 0 || n == 0 {
        return;
    }
    let a = Source {
        values: a,
        lines: m,
        k,
        is_along_k: kind != Kind::TN,
    };
    let b = Source {
        values: b,
        lines: n,
        k,
        is_along_k: kind == Kind::NT,
    };
    // Two products at a time are rare, so the second one allocates its own buffers.
    let mut own = Buffers::default();
    let mut kept = packed.0.try_lock();
    let buffers = kept.as_deref_mut().unwrap_or(&mut own);
    let mut target = Target {
        c: c.as_mut_ptr(),
        m,
        n,
        beta,
    };
    // With k = 0, C must still be scaled by beta.
    for first_k in (0..k.max(1)).step_by(BLOCK) {
        let n_k = BLOCK.min(k - first_k);
        block::<F>(buffers, &a, &b, first_k, n_k, alpha, target);
        target.beta = 1.0;
    }
}

/// Adds the part of the product that belongs to a block of k.
fn block<F: Format>(
    buffers: &mut Buffers,
    a: &Source<'_>,
    b: &Source<'_>,
    first_k: usize,
    n_k: usize,
    alpha: f32,
    target: Target,
) {
    let steps = F::steps(n_k);
    let (a_len, b_len) = (steps * ROWS, steps * WIDTH);
    let (n_a, n_b) = (a.lines.div_ceil(ROWS), b.lines.div_ceil(F::COLUMNS));
    let a_panels = room(&mut buffers.a, n_a * a_len);
    let b_panels = room(&mut buffers.b, n_b * b_len);
    let a_scales = room(&mut buffers.a_scales, n_a);
    let b_scales = room(&mut buffers.b_scales, n_b);
    let pack_a = || {
        let panels = a_panels.par_chunks_mut(a_len.max(1)).zip(&mut *a_scales);
        panels.enumerate().for_each(|(index, (out, scale))| {
            let panel = a.panel(index, ROWS, first_k, n_k);
            *scale = F::scale(a, panel);
            F::pack_a(a, panel, *scale, out);
        });
    };
    let pack_b = || {
        let panels = b_panels.par_chunks_mut(b_len.max(1)).zip(&mut *b_scales);
        panels.enumerate().for_each(|(index, (out, scale))| {
            let panel = b.panel(index, F::COLUMNS, first_k, n_k);
            *scale = F::scale(b, panel);
            F::pack_b(b, panel, *scale, out);
        });
    };
    if n_k == 0 {
        a_scales.fill(1.0);
        b_scales.fill(1.0);
    } else {
        rayon::join(pack_a, pack_b);
    }
    let (a_panels, b_panels, a_scales, b_scales) = (&*a_panels, &*b_panels, &*a_scales, &*b_scales);
    let n_groups = n_a.div_ceil(GROUP);
    // Groups of equal size, and enough tasks for threads to end together.
    let group = n_a.div_ceil(n_groups);
    let n_strips = n_b.min(32usize.div_ceil(n_groups));
    let strip = n_b.div_ceil(n_strips);
    (0..n_groups * n_strips).into_par_iter().for_each(|task| {
        let (rows, columns) = (task / n_strips * group, task % n_strips * strip);
        for j in columns..(columns + strip).min(n_b) {
            let b = &b_panels[j * b_len..][..b_len];
            for (index, b) in b.chunks(CACHED * WIDTH).enumerate() {
                for i in rows..(rows + group).min(n_a) {
                    let a = &a_panels[i * a_len..][..a_len];
                    let a = &a[index * CACHED * ROWS..][..b.len() / WIDTH * ROWS];
                    let mut tile = target.tile(i * ROWS, j * F::COLUMNS);
                    if index > 0 {
                        tile.beta = 1.0;
                    }
                    F::tile(a, b, alpha / a_scales[i] / b_scales[j], tile);
                }
            }
        }
    });
}

fn room<T: Copy + Default>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
    &mut buffer[..len]
}

impl Format for Bf16 {
    const COLUMNS: usize = 32;

    fn steps(k: usize) -> usize {
        k.div_ceil(2)
    }

    fn scale(_: &Source<'_>, _: Panel) -> f32 {
        1.0
    }

    fn pack_a(source: &Source<'_>, panel: Panel, _: f32, out: &mut [u32]) {
        // SAFETY: the caller of `bf16` has promised the features.
        unsafe { pack_bf16::<ROWS>(source, panel, out) }
    }

    fn pack_b(source: &Source<'_>, panel: Panel, _: f32, out: &mut [u32]) {
        // SAFETY: the caller of `bf16` has promised the features.
        unsafe { pack_bf16::<WIDTH>(source, panel, out) }
    }

    fn tile(a: &[u32], b: &[u32], scale: f32, tile: Tile) {
        // SAFETY: the caller of `bf16` has promised the features.
        unsafe { tile_bf16(a, b, scale, tile) }
    }
}

impl Format for Fp16 {
    const COLUMNS: usize = 64;

    fn steps(k: usize) -> usize {
        k
    }

    fn scale(source: &Source<'_>, panel: Panel) -> f32 {
        // SAFETY: the caller of `fp16` has promised the features.
        let largest = unsafe { largest_abs(source, panel) };
        // The exponent of the power of two that brings `largest` to [8, 16), clamped so that it and its
        // inverse are normal numbers.
        let exponent = (largest.to_bits() >> 23) as i32 - 127;
        let exponent = (3 - exponent).clamp(-124, 100);
        f32::from_bits(((exponent + 127) as u32) << 23)
    }

    fn pack_a(source: &Source<'_>, panel: Panel, scale: f32, out: &mut [u32]) {
        // SAFETY: the caller of `fp16` has promised the features.
        unsafe { pack_a_fp16(source, panel, scale, out) }
    }

    fn pack_b(source: &Source<'_>, panel: Panel, scale: f32, out: &mut [u32]) {
        // SAFETY: the caller of `fp16` has promised the features.
        unsafe { pack_b_fp16(source, panel, scale, out) }
    }

    fn tile(a: &[u32], b: &[u32], scale: f32, tile: Tile) {
        // SAFETY: the caller of `fp16` has promised the features.
        unsafe { tile_fp16(a, b, scale, tile) }
    }
}

/// Computes C = scale A B + beta C for panels of bf16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn tile_bf16(a: &[u32], b: &[u32], scale: f32, mut tile: Tile) {
    let mut sums = [[_mm512_setzero_ps(); 2]; ROWS];
    for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(WIDTH)) {
        let [b0, b1] = pair(b);
        for row in 0..ROWS {
            let a = _mm512_set1_epi32(a[row] as i32);
            // SAFETY: the two types are the same 64 bytes.
            let [a, b0, b1]: [__m512bh; 3] = unsafe { std::mem::transmute([a, b0, b1]) };
            sums[row][0] = _mm512_dpbf16_ps(sums[row][0], a, b0);
            sums[row][1] = _mm512_dpbf16_ps(sums[row][1], a, b1);
        }
    }
    let scale = _mm512_set1_ps(scale);
    for row in 0..ROWS {
        for (half, sum) in sums[row].iter().enumerate() {
            tile.update(row, 16 * half, _mm512_mul_ps(*sum, scale));
        }
    }
}

/// Computes C = scale A B + beta C for panels of fp16.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16")]
fn tile_fp16(a: &[u32], b: &[u32], scale: f32, mut tile: Tile) {
    let scale = _mm512_set1_ps(scale);
    for (a, b) in a.chunks(RUN * ROWS).zip(b.chunks(RUN * WIDTH)) {
        let mut sums = [[_mm512_setzero_ph(); 2]; ROWS];
        for (a, b) in a.chunks_exact(ROWS).zip(b.chunks_exact(WIDTH)) {
            let [b0, b1] = pair(b).map(|b| _mm512_castsi512_ph(b));
            for row in 0..ROWS {
                let a = _mm512_castsi512_ph(_mm512_set1_epi32(a[row] as i32));
                sums[row][0] = _mm512_fmadd_ph(a, b0, sums[row][0]);
                sums[row][1] = _mm512_fmadd_ph(a, b1, sums[row][1]);
            }
        }
        for row in 0..ROWS {
            for (half, sum) in sums[row].iter().enumerate() {
                let sum = _mm512_castph_si512(*sum);
                let (low, high) = (
                    _mm512_castsi512_si256(sum),
                    _mm512_extracti64x4_epi64::<1>(sum),
                );
                for (quarter, sum) in [low, high].into_iter().enumerate() {
                    let sum = _mm512_cvtxph_ps(_mm256_castsi256_ph(sum));
                    tile.update(row, 32 * half + 16 * quarter, _mm512_mul_ps(sum, scale));
                }
            }
        }
        tile.beta = 1.0;
    }
}

/// Returns the two registers of B that a step reads.
#[inline]
#[target_feature(enable = "avx512f")]
fn pair(b: &[u32]) -> [__m512i; 2] {
    let b: &[u32; WIDTH] = b.try_into().expect("a chunk of that length");
    // SAFETY: 32 dwords are read from an array of 32.
    unsafe {
        [
            _mm512_loadu_si512(b.as_ptr().cast()),
            _mm512_loadu_si512(b.as_ptr().add(16).cast()),
        ]
    }
}

/// Returns the largest finite magnitude in a panel. Values that are not finite stay so at any scale, and must
/// not influence the scale of others.
#[target_feature(enable = "avx512f,avx512dq")]
fn largest_abs(source: &Source<'_>, panel: Panel) -> f32 {
    let infinity = _mm512_set1_ps(f32::INFINITY);
    let mut largest = [_mm512_setzero_ps(); 4];
    for run in source.runs(panel) {
        for values in run.chunks(64) {
            for (values, largest) in values.chunks(16).zip(&mut largest) {
                let values = _mm512_abs_ps(load(values));
                let is_finite = _mm512_cmp_ps_mask::<_CMP_LT_OQ>(values, infinity);
                *largest = _mm512_mask_max_ps(*largest, is_finite, values, *largest);
            }
        }
    }
    let [a, b, c, d] = largest;
    _mm512_reduce_max_ps(_mm512_max_ps(_mm512_max_ps(a, b), _mm512_max_ps(c, d)))
}

/// Loads up to 16 values, and zeros beyond them.
#[inline]
#[target_feature(enable = "avx512f")]
fn load(values: &[f32]) -> __m512 {
    if let Some(values) = values.first_chunk::<16>() {
        // SAFETY: 16 values are read from an array of 16.
        return unsafe { _mm512_loadu_ps(values.as_ptr()) };
    }
    // SAFETY: the mask admits only as many values as there are.
    unsafe { _mm512_maskz_loadu_ps(first(values.len()), values.as_ptr()) }
}

/// Returns a mask of the first `n` of 16 lanes.
#[inline]
fn first(n: usize) -> u16 {
    if n >= 16 { !0 } else { (1 << n) - 1 }
}

/// Stores as many of the 16 dwords, from the first, as `out` has room for.
#[inline]
#[target_feature(enable = "avx512f")]
fn store(out: &mut [u32], dwords: __m512i) {
    // SAFETY: the mask admits only as many values as there is room for.
    unsafe { _mm512_mask_storeu_epi32(out.as_mut_ptr().cast(), first(out.len()), dwords) }
}

/// Packs two runs of 16 values into 16 dwords of bf16, `low` in the lower halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
fn zip_bf16(low: __m512, high: __m512) -> __m512i {
    // SAFETY: the two types are the same 32 bytes.
    let [low, high]: [__m256i; 2] =
        unsafe { std::mem::transmute([_mm512_cvtneps_pbh(low), _mm512_cvtneps_pbh(high)]) };
    zip(low, high)
}

/// Packs two runs of 16 values into 16 dwords of fp16, `low` in the lower halves.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512fp16")]
fn zip_fp16(low: __m512, high: __m512) -> __m512i {
    zip(
        _mm256_castph_si256(_mm512_cvtxps_ph(low)),
        _mm256_castph_si256(_mm512_cvtxps_ph(high)),
    )
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn zip(low: __m256i, high: __m256i) -> __m512i {
    _mm512_or_si512(
        _mm512_cvtepu16_epi32(low),
        _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(high)),
    )
}

/// Packs a panel of `N` lines in bf16: for each pair of k, one dword per line.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")]
fn pack_bf16<const N: usize>(source: &Source<'_>, panel: Panel, out: &mut [u32]) {
    let zero = _mm512_setzero_ps();
    if source.is_along_k {
        for (lines, at) in groups::<N>() {
            for k in (0..panel.n_k).step_by(32) {
                let mut rows = [_mm512_setzero_si512(); 16];
                for line in 0..lines.min(panel.n_lines.saturating_sub(at)) {
                    let values = source.from(panel.first_line + at + line, panel.first_k + k);
                    let values = &values[..32.min(panel.n_k - k)];
                    let (low, high) = values.split_at(16.min(values.len()));
                    let halves = [load(low), if high.is_empty() { zero } else { load(high) }];
                    // SAFETY: the two types are the same 64 bytes.
                    rows[line] = unsafe {
                        std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(
                            halves[1], halves[0],
                        ))
                    };
                }
                store_columns::<N>(rows, lines, at, &mut out[k / 2 * N..]);
            }
        }
        return;
    }
    for (k, out) in out.chunks_exact_mut(N).enumerate() {
        for (lines, at) in groups::<N>() {
            let n = lines.min(panel.n_lines.saturating_sub(at));
            let line = panel.first_line + at.min(panel.n_lines - 1);
            let row = |k: usize| {
                if k < panel.n_k {
                    load(&source.from(line, panel.first_k + k)[..n])
                } else {
                    zero
                }
            };
            store(
                &mut out[at..at + lines],
                zip_bf16(row(2 * k), row(2 * k + 1)),
            );
        }
    }
}

/// Returns the groups of at most 16 lines of a panel of `n` lines: their length and start.
fn groups<const N: usize>() -> impl Iterator<Item = (usize, usize)> {
    (0..N).step_by(16).map(|at| (16.min(N - at), at))
}

/// Packs a panel of A in fp16: for each k, one dword per line, which holds the value twice.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16")]
fn pack_a_fp16(source: &Source<'_>, panel: Panel, scale: f32, out: &mut [u32]) {
    let scale = _mm512_set1_ps(scale);
    if source.is_along_k {
        for k in (0..panel.n_k).step_by(16) {
            let n = 16.min(panel.n_k - k);
            let mut rows = [_mm512_setzero_si512(); 16];
            for line in 0..panel.n_lines {
                let values = source.from(panel.first_line + line, panel.first_k + k);
                let values = _mm512_mul_ps(load(&values[..n]), scale);
                rows[line] = zip_fp16(values, values);
            }
            store_columns::<ROWS>(rows, ROWS, 0, &mut out[k * ROWS..]);
        }
        return;
    }
    for (k, out) in out.chunks_exact_mut(ROWS).enumerate() {
        let values = source.from(panel.first_line, panel.first_k + k);
        let values = _mm512_mul_ps(load(&values[..panel.n_lines]), scale);
        store(out, zip_fp16(values, values));
    }
}

/// Packs a panel of B in fp16: for each k, the values of all columns.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512fp16")]
fn pack_b_fp16(source: &Source<'_>, panel: Panel, scale: f32, out: &mut [u32]) {
    let scale = _mm512_set1_ps(scale);
    if source.is_along_k {
        for at in [0, 16] {
            for k in (0..panel.n_k).step_by(16) {
                let n = 16.min(panel.n_k - k);
                let line = |line: usize| {
                    if line < panel.n_lines {
                        let values = source.from(panel.first_line + line, panel.first_k + k);
                        _mm512_mul_ps(load(&values[..n]), scale)
                    } else {
                        _mm512_setzero_ps()
                    }
                };
                let mut rows = [_mm512_setzero_si512(); 16];
                for (pair, row) in rows.iter_mut().enumerate() {
                    let first = 2 * (at + pair);
                    *row = zip_fp16(line(first), line(first + 1));
                }
                store_columns::<WIDTH>(rows, 16, at, &mut out[k * WIDTH..]);
            }
        }
        return;
    }
    for (k, out) in out.chunks_exact_mut(WIDTH).enumerate() {
        let values = &source.from(panel.first_line, panel.first_k + k)[..panel.n_lines];
        for (index, out) in out.as_chunks_mut::<8>().0.iter_mut().enumerate() {
            let values = values.get(16 * index..).unwrap_or_default();
            let values = _mm512_mul_ps(load(&values[..16.min(values.len())]), scale);
            let values = _mm256_castph_si256(_mm512_cvtxps_ph(values));
            // SAFETY: eight dwords are written to an array of eight.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), values) };
        }
    }
}

/// Stores the columns of 16 x 16 dwords, as many as `out` has steps of `N` for: `lines` dwords of each column, at
/// `at` of the step.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn store_columns<const N: usize>(rows: [__m512i; 16], lines: usize, at: usize, out: &mut [u32]) {
    for (column, out) in transpose(rows).into_iter().zip(out.chunks_exact_mut(N)) {
        store(&mut out[at..at + lines], column);
    }
}

/// Transposes 16 x 16 dwords.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    let mut t = rows;
    // Within lanes of four dwords: pairs, then fours.
    for i in 0..8 {
        t[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut u = t;
    for i in 0..4 {
        for half in 0..2 {
            u[4 * i + 2 * half] = _mm512_unpacklo_epi64(t[4 * i + half], t[4 * i + 2 + half]);
            u[4 * i + 2 * half + 1] = _mm512_unpackhi_epi64(t[4 * i + half], t[4 * i + 2 + half]);
        }
    }
    // u[4 i + c], lane l, holds column 4 l + c of rows 4 i to 4 i + 3: the lanes change places.
    let mut out = u;
    for c in 0..4 {
        let low = _mm512_shuffle_i32x4::<0x88>(u[c], u[4 + c]);
        let high = _mm512_shuffle_i32x4::<0xDD>(u[c], u[4 + c]);
        let low2 = _mm512_shuffle_i32x4::<0x88>(u[8 + c], u[12 + c]);
        let high2 = _mm512_shuffle_i32x4::<0xDD>(u[8 + c], u[12 + c]);
        out[c] = _mm512_shuffle_i32x4::<0x88>(low, low2);
        out[4 + c] = _mm512_shuffle_i32x4::<0x88>(high, high2);
        out[8 + c] = _mm512_shuffle_i32x4::<0xDD>(low, low2);
        out[12 + c] = _mm512_shuffle_i32x4::<0xDD>(high, high2);
    }
    out
}
