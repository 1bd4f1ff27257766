//! Random draws of a loss in a step: a function of the step's seed, never of state.

use kernels::random::mix_at;

/// `count` of the numbers below `n`, in order, each set of them as likely as any other.
pub(crate) fn sample(n: usize, count: usize, seed: u64) -> Vec<usize> {
    let mut numbers: Vec<usize> = (0..n).collect();
    let count = count.min(n);
    for i in 0..count {
        let rest = (n - i) as u64;
        // The bias of the remainder is below n / 2^64.
        numbers.swap(i, i + (mix_at(seed, i as u64) % rest) as usize);
    }
    numbers.truncate(count);
    numbers.sort_unstable();
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_sets_and_all_come_up() {
        let mut seen = [[0; 5]; 5];
        for seed in 0..1000 {
            let drawn = sample(5, 2, seed);
            assert_eq!(drawn, sample(5, 2, seed));
            let [a, b] = drawn[..] else {
                panic!("{drawn:?}")
            };
            assert!(a < b && b < 5);
            seen[a][b] += 1;
        }
        for a in 0..5 {
            for b in a + 1..5 {
                // One in ten of a thousand, within five standard deviations.
                assert!((53..=147).contains(&seen[a][b]), "{seen:?}");
            }
        }
        assert_eq!(sample(3, 7, 1), [0, 1, 2]);
        assert!(sample(0, 1, 1).is_empty());
    }
}
