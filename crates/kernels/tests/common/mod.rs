//! Random inputs, derivatives by differences, and comparisons.

#![allow(dead_code, reason = "not every test file uses every helper")]

/// Random numbers by SplitMix64.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Uniform in [-1, 1).
    pub(crate) fn vec(&mut self, n: usize) -> Vec<f32> {
        (0..n)
            .map(|_| (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0)
            .collect()
    }
}

pub(crate) fn wide(x: &[f32]) -> Vec<f64> {
    x.iter().map(|&x| f64::from(x)).collect()
}

pub(crate) fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// The gradient of `f` by central differences in f64.
pub(crate) fn gradient(x: &[f32], f: impl Fn(&[f64]) -> f64) -> Vec<f64> {
    let mut x = wide(x);
    (0..x.len())
        .map(|i| {
            let (old, step) = (x[i], 1e-5);
            x[i] = old + step;
            let up = f(&x);
            x[i] = old - step;
            let down = f(&x);
            x[i] = old;
            (up - down) / (2.0 * step)
        })
        .collect()
}

/// Asserts that every value is within `tolerance` of the largest expected magnitude (at least 1).
#[track_caller]
pub(crate) fn close(what: &str, actual: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(actual.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1.0f64, |m, x| m.max(x.abs()));
    for (i, (&a, &e)) in actual.iter().zip(expected).enumerate() {
        let error = (f64::from(a) - e).abs() / scale;
        assert!(
            error <= tolerance,
            "{what}[{i}]: {a} instead of {e}, error {error:.1e}"
        );
    }
}

/// Asserts that `f` gives the same bits on pools of 1, 2, 3 and 7 threads, and returns them.
#[track_caller]
pub(crate) fn same_on_any_threads(f: impl Fn() -> Vec<Vec<f32>> + Sync) -> Vec<Vec<f32>> {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .unwrap();
        pool.install(&f)
    };
    let first = run(1);
    let bits = |x: &[Vec<f32>]| -> Vec<Vec<u32>> {
        x.iter()
            .map(|x| x.iter().map(|x| x.to_bits()).collect())
            .collect()
    };
    for threads in [2, 3, 7] {
        assert!(
            bits(&run(threads)) == bits(&first),
            "{threads} threads give other bits"
        );
    }
    first
}

/// Offsets of sentences of these lengths.
pub(crate) fn offsets(lengths: &[usize]) -> Vec<usize> {
    let mut offsets = vec![0];
    for length in lengths {
        offsets.push(offsets[offsets.len() - 1] + length);
    }
    offsets
}

/// Runs this test binary again on the instruction sets below the best one.
#[track_caller]
pub(crate) fn on_lower_levels() {
    const NAME: &str = "KERNELS_LEVEL";
    if std::env::var_os(NAME).is_some() {
        return;
    }
    for level in ["avx2", "portable"] {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .env(NAME, level)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{level}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}
