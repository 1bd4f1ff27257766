//! The probability that positive and negative of a triplet are the right way round: by their cosines with the anchor, and
//! by what the texts of the two columns are like.

use search::Embeddings;
use tch::{Kind, Tensor};

/// The ridge of the regression, as a multiple of the mean square of an element. On SNLI any from 1 to 10 does as well.
const RIDGE: f64 = 3.0;

/// Difference between the directions of each row's positive and of the mean of its negatives, of [rows, dimension].
pub(super) fn differences(columns: &[Embeddings<'_>]) -> Vec<f32> {
    let (Some(positives), negatives) = (columns.first(), columns.get(1..).unwrap_or_default())
    else {
        return Vec::new();
    };
    let mut differences = positives.normalized();
    let n_negatives = negatives.len() as f32;
    for negatives in negatives {
        for (difference, value) in differences.iter_mut().zip(negatives.normalized()) {
            *difference -= value / n_negatives;
        }
    }
    differences
}

/// How much each row's positive is like the positives, and its negatives like the negatives, of the other folds: the dot
/// product of its difference with the ridge regression of 1 on theirs.
///
/// # Errors
/// Those of libtorch.
pub(super) fn likeness(
    differences: &[f32],
    fold_of: &[usize],
    n_folds: usize,
) -> anyhow::Result<Vec<f32>> {
    let n_rows = fold_of.len();
    let rows = Tensor::from_slice(differences)
        .f_view([n_rows as i64, -1])?
        .f_to_kind(Kind::Double)?;
    let dimension = rows.size()[1];
    let mut likeness = vec![0.0; n_rows];
    for fold in 0..n_folds {
        let rows_where = |is_of_fold: bool| -> Vec<i64> {
            let rows = (0..n_rows as i64).zip(fold_of);
            let rows = rows.filter(|(_, of)| (**of == fold) == is_of_fold);
            rows.map(|(row, _)| row).collect()
        };
        let held_out = rows_where(true);
        let select = |indices: &[i64]| rows.f_index_select(0, &Tensor::from_slice(indices));
        let others = select(&rows_where(false))?;
        let n_others = others.size()[0].max(1) as f64;
        let squares = others
            .f_transpose(0, 1)?
            .f_matmul(&others)?
            .f_div_scalar(n_others)?;
        let mean_square = squares.f_trace()?.f_double_value(&[])? / dimension as f64;
        // Rows without any difference would make the matrix singular.
        let ridge = (RIDGE * mean_square).max(1e-12);
        let identity = Tensor::f_eye(dimension, (Kind::Double, rows.device()))?;
        let squares = squares.f_add(&identity.f_mul_scalar(ridge)?)?;
        let sums = others.f_sum_dim_intlist(0, false, Kind::Double)?;
        let means = sums.f_div_scalar(n_others)?.f_view([dimension, 1])?;
        let weights = Tensor::f_linalg_solve(&squares, &means, true)?;
        let found = select(&held_out)?.f_matmul(&weights)?.f_view([-1])?;
        for (row, value) in held_out.iter().zip(Vec::<f64>::try_from(found)?) {
            likeness[*row as usize] = value as f32;
        }
    }
    Ok(likeness)
}

/// The probability for each row from its margin of cosines and its [`likeness`]: a logistic regression without a constant,
/// fitted to the rows as they are. So with many wrong rows the probabilities of all are nearer to one half. A part that
/// speaks for the wrong side more often than not counts nothing.
pub(super) fn probabilities(margins: &[f32], likeness: &[f32]) -> Vec<f32> {
    let rows: Vec<[f64; 2]> = scaled(margins)
        .into_iter()
        .zip(scaled(likeness))
        .map(|(margin, likeness)| [margin, likeness])
        .collect();
    let mut weights = fitted(&rows, [true, true]);
    if weights.iter().any(|weight| *weight < 0.0) {
        weights = fitted(&rows, weights.map(|weight| weight >= 0.0));
        weights = weights.map(|weight| weight.max(0.0));
    }
    rows.iter()
        .map(|row| sigmoid(row[0] * weights[0] + row[1] * weights[1]) as f32)
        .collect()
}

/// Values divided by their root mean square: the sign is what counts.
fn scaled(values: &[f32]) -> Vec<f64> {
    let squares = values.iter().map(|value| f64::from(*value).powi(2));
    let scale = (squares.sum::<f64>() / values.len().max(1) as f64).sqrt();
    let values = values.iter().map(|value| f64::from(*value));
    values.map(|value| value / scale.max(1e-12)).collect()
}

fn sigmoid(x: f64) -> f64 {
    1.0 / (1.0 + (-x).exp())
}

/// Weights of the logistic regression, by Newton's method; those that are not fitted are 0. A small ridge keeps them finite
/// where all rows are on the right side.
fn fitted(rows: &[[f64; 2]], is_fitted: [bool; 2]) -> [f64; 2] {
    const RIDGE: f64 = 1e-3;
    let n_rows = rows.len().max(1) as f64;
    let mut weights = [0.0; 2];
    for _ in 0..50 {
        let mut slope = weights.map(|weight| RIDGE * weight);
        let mut bend = [[RIDGE, 0.0], [0.0, RIDGE]];
        for row in rows {
            let wrong = sigmoid(-(row[0] * weights[0] + row[1] * weights[1]));
            for i in 0..2 {
                slope[i] -= wrong * row[i] / n_rows;
                for j in 0..2 {
                    bend[i][j] += wrong * (1.0 - wrong) * row[i] * row[j] / n_rows;
                }
            }
        }
        for i in 0..2 {
            if !is_fitted[i] {
                (slope[i], bend[0][1], bend[1][0]) = (0.0, 0.0, 0.0);
            }
        }
        let determinant = bend[0][0] * bend[1][1] - bend[0][1] * bend[1][0];
        let step = [
            (bend[1][1] * slope[0] - bend[0][1] * slope[1]) / determinant,
            (bend[0][0] * slope[1] - bend[1][0] * slope[0]) / determinant,
        ];
        // Where the curve is flat, a whole step goes too far.
        let length = (step[0] * step[0] + step[1] * step[1]).sqrt();
        let scale = if length > 1.0 { 1.0 / length } else { 1.0 };
        for (weight, step) in weights.iter_mut().zip(step) {
            *weight -= scale * step;
        }
        if length < 1e-9 {
            break;
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_that_of_directions() {
        let columns: [&[f32]; 3] = [&[2.0, 0.0], &[0.0, 5.0], &[3.0, 0.0]];
        let columns = columns.map(|values| Embeddings::new(values, 2).unwrap());
        assert_eq!(differences(&columns[..2]), [1.0, -1.0]);
        assert_eq!(differences(&columns), [0.5, -0.5]);
    }

    /// Rows of four numbers, of which the first is 1 but in each fifth row, where it is -1, and the others vary.
    fn rows(n_rows: usize) -> Vec<f32> {
        let row = |i: usize| {
            let side = if i % 5 == 4 { -1.0 } else { 1.0 };
            let other = |k: usize| ((i * 7 + k * 5) % 11) as f32 / 10.0 - 0.5;
            [side, other(0), other(1), other(2)]
        };
        (0..n_rows).flat_map(row).collect()
    }

    #[test]
    fn rows_unlike_those_of_other_folds_are_found() {
        let fold_of: Vec<usize> = (0..60).map(|i| (i / 3) % 4).collect();
        let found = likeness(&rows(60), &fold_of, 4).unwrap();
        for (i, likeness) in found.iter().enumerate() {
            assert_eq!(*likeness < 0.0, i % 5 == 4, "row {i}: {likeness}");
        }
        // A fold's rows are judged by the others alone.
        let mut changed = rows(60);
        changed[..4].fill(9.0);
        let again = likeness(&changed, &fold_of, 4).unwrap();
        for i in 1..60 {
            assert_eq!(found[i] == again[i], fold_of[i] == 0, "row {i}");
        }
    }

    #[test]
    fn rows_without_differences_are_like_nothing() {
        assert_eq!(likeness(&[0.0; 8], &[0, 1, 0, 1], 2).unwrap(), vec![0.0; 4]);
    }

    #[test]
    fn both_parts_count_by_what_they_tell() {
        // The margin is right in nine of ten rows, the likeness in three of four, independently.
        let sign = |is_right: bool| if is_right { 1.0 } else { -1.0 };
        let margins: Vec<f32> = (0..400).map(|i| sign(i % 10 != 0)).collect();
        let likeness: Vec<f32> = (0..400).map(|i| sign((i / 10) % 4 != 0)).collect();
        let found = probabilities(&margins, &likeness);
        // Odds of independent parts multiply: 9 · 3, 9 / 3, 3 / 9, 1 / (9 · 3).
        for (i, odds) in [(11, 27.0), (1, 3.0), (10, 1.0 / 3.0), (0, 1.0 / 27.0)] {
            let expected: f32 = odds / (1.0 + odds);
            assert!(
                (found[i] - expected).abs() < 0.01,
                "{} {expected}",
                found[i]
            );
        }
    }

    #[test]
    fn a_part_that_speaks_for_the_wrong_side_counts_nothing() {
        let margins = [1.0, 0.5, -0.2, 0.8];
        let against = [-1.0; 4];
        let found = probabilities(&margins, &against);
        let alone = probabilities(&margins, &[0.0; 4]);
        for (found, alone) in found.iter().zip(&alone) {
            assert!((found - alone).abs() < 1e-5, "{found} {alone}");
        }
        assert!(found[0] > found[1] && found[2] < 0.5);
        assert_eq!(probabilities(&[-1.0; 3], &[-1.0; 3]), [0.5; 3]);
    }

    #[test]
    fn rows_that_are_all_right_have_finite_weights() {
        let found = probabilities(&[0.5, 1.0, 2.0], &[1.0; 3]);
        assert!(found.iter().all(|p| *p > 0.5 && p.is_finite()), "{found:?}");
        assert!(found.is_sorted());
    }
}
