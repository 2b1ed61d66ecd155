//! Chance that can be repeated: every decision about a frame that does not depend on the time.

use std::f64::consts::TAU;
use std::time::Duration;

use super::config::{Distribution, Impairment, Jitter, Loss, Reorder, gilbert};

/// What was drawn for one frame. All of it is drawn for every frame, lost ones included, so that the n-th frame's lot
/// depends on the seed and on n, and on nothing else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Lot {
    pub(super) lost: bool,
    pub(super) duplicate: bool,
    /// A random number that says which bit is flipped, if one is.
    pub(super) corrupt: Option<u64>,
    /// It is one of those that are sent ahead or held back.
    pub(super) reorder: bool,
    /// The delay with jitter, of the frame and of its duplicate.
    pub(super) delays: [Duration; 2],
}

/// A random generator for each kind of decision, so that a change to one of them leaves the others as they were.
pub(super) struct Chance {
    loss: fastrand::Rng,
    duplicate: fastrand::Rng,
    corrupt: fastrand::Rng,
    reorder: fastrand::Rng,
    jitter: fastrand::Rng,
    /// The state of Gilbert's and Elliott's link.
    bad: bool,
}

impl Chance {
    /// `key` tells the impairments of one switch apart.
    pub(super) fn new(seed: u64, key: &str) -> Chance {
        let rng = |kind: &str| fastrand::Rng::with_seed(hash(seed, &[key, kind]));
        Chance {
            loss: rng("loss"),
            duplicate: rng("duplicate"),
            corrupt: rng("corrupt"),
            reorder: rng("reorder"),
            jitter: rng("jitter"),
            bad: false,
        }
    }

    pub(super) fn draw(&mut self, impairment: &Impairment) -> Lot {
        let reorder = impairment.reorder.map_or(0.0, |reorder| match reorder {
            Reorder::Ahead { ratio } | Reorder::HeldBack { ratio, .. } => ratio,
        });
        let position = self.corrupt.u64(..);
        Lot {
            lost: self.is_lost(impairment.loss),
            duplicate: happens(&mut self.duplicate, impairment.duplicate.unwrap_or(0.0)),
            corrupt: happens(&mut self.corrupt, impairment.corrupt.unwrap_or(0.0)).then_some(position),
            reorder: happens(&mut self.reorder, reorder),
            delays: [(); 2].map(|()| self.delay(impairment)),
        }
    }

    fn is_lost(&mut self, loss: Option<Loss>) -> bool {
        let (p, r, good, bad) = match loss {
            None => return false,
            Some(Loss::Independent { ratio }) => return happens(&mut self.loss, ratio),
            Some(Loss::Bursts { ratio, mean_frames }) => {
                let (p, r) = gilbert(ratio, mean_frames);
                (p, r, 0.0, 1.0)
            }
            Some(Loss::GilbertElliott { p, r, good, bad }) => (p, r, good, bad),
        };
        let turns = happens(&mut self.loss, if self.bad { r } else { p });
        self.bad ^= turns;
        happens(&mut self.loss, if self.bad { bad } else { good })
    }

    fn delay(&mut self, impairment: &Impairment) -> Duration {
        let Some(Jitter { amount, distribution }) = impairment.jitter else { return impairment.delay };
        let (one, other) = (self.jitter.f64(), self.jitter.f64());
        let deviation = match distribution {
            Distribution::Uniform => 2.0 * one - 1.0,
            // Box and Muller's transform; 1 - one is never 0.
            Distribution::Normal => (-2.0 * (1.0 - one).ln()).sqrt() * (TAU * other).cos(),
        };
        let nanos = impairment.delay.as_nanos() as f64 + deviation * amount.as_nanos() as f64;
        // A negative number becomes 0.
        Duration::from_nanos(nanos.round() as u64)
    }
}

/// True with the probability `ratio`.
fn happens(rng: &mut fastrand::Rng, ratio: f64) -> bool {
    rng.f64() < ratio
}

/// FNV-1a, 64 bit: the standard library's hashes may change from one Rust to the next.
fn hash(seed: u64, parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|part| part.bytes().chain([0xff]));
    seed.to_le_bytes().into_iter().chain(bytes).fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn lots(seed: u64, key: &str, impairment: &Impairment, frames: usize) -> Vec<Lot> {
        let mut chance = Chance::new(seed, key);
        (0..frames).map(|_| chance.draw(impairment)).collect()
    }

    fn lossy(impairment: Impairment, frames: usize) -> Vec<bool> {
        lots(1, "sw", &impairment, frames).iter().map(|lot| lot.lost).collect()
    }

    fn share(lost: &[bool]) -> f64 {
        lost.iter().filter(|lost| **lost).count() as f64 / lost.len() as f64
    }

    proptest! {
        #[test]
        fn a_seed_and_a_key_decide(seed: u64, other_seed: u64, loss in 0.0..=1.0f64, corrupt in 0.0..=1.0f64) {
            let impairment = Impairment::new()
                .delay(50 * MS)
                .jitter(20 * MS, Distribution::Normal)
                .loss(loss)
                .corrupt(corrupt)
                .duplicate(0.3)
                .reorder(0.3);
            let first = lots(seed, "a", &impairment, 100);
            prop_assert_eq!(&first, &lots(seed, "a", &impairment, 100));
            prop_assert_ne!(&first, &lots(seed, "b", &impairment, 100));
            if seed != other_seed {
                prop_assert_ne!(&first, &lots(other_seed, "a", &impairment, 100));
            }
        }

        #[test]
        fn one_kind_of_decision_leaves_the_others_alone(seed: u64, loss in 0.0..=1.0f64) {
            let quiet = Impairment::new().duplicate(0.5).delay(50 * MS).jitter(20 * MS, Distribution::Uniform);
            let without = lots(seed, "a", &quiet, 100);
            let with = lots(seed, "a", &quiet.clone().loss(loss).corrupt(0.5).reorder(0.5), 100);
            for (with, without) in with.iter().zip(&without) {
                prop_assert_eq!(with.duplicate, without.duplicate);
                prop_assert_eq!(with.delays, without.delays);
            }
        }

        #[test]
        fn never_is_never_and_always_is_always(seed: u64) {
            let lots = lots(seed, "a", &Impairment::new().loss(1.0).duplicate(0.0).delay(MS), 100);
            for lot in lots {
                prop_assert!(lot.lost && !lot.duplicate && lot.corrupt.is_none() && !lot.reorder);
                prop_assert_eq!(lot.delays, [MS; 2]);
            }
        }
    }

    /// A change of these numbers means that seeds from old reports no longer repeat their runs: say so in the
    /// changelog.
    #[test]
    fn the_decisions_of_a_seed_stay_the_same_between_versions() {
        let lost = lots(42, "sw", &Impairment::new().loss(0.1), 100);
        let lost: Vec<usize> = (0..100).filter(|n| lost[*n].lost).collect();
        assert_eq!(lost, [1, 9, 17, 26, 32, 49, 66, 67, 77, 78, 91]);
    }

    /// Bound: 4 standard deviations of the binomial distribution, 0.62 percentage points at 5 % of 20,000.
    #[test]
    fn independent_loss_keeps_its_ratio() {
        for ratio in [0.01, 0.05, 0.5, 0.99] {
            let lost = share(&lossy(Impairment::new().loss(ratio), 20_000));
            let bound = 4.0 * (ratio * (1.0 - ratio) / 20_000.0).sqrt();
            assert!((lost - ratio).abs() < bound, "{lost} is not {ratio} ± {bound}");
        }
    }

    #[test]
    fn bursts_keep_their_ratio_and_their_mean_length() {
        let lost = lossy(Impairment::new().loss_bursts(0.05, 8.0), 400_000);
        let bursts: Vec<f64> =
            lost.chunk_by(|a, b| a == b).filter(|run| run[0]).map(|run| run.len() as f64).collect();
        let mean = bursts.iter().sum::<f64>() / bursts.len() as f64;
        // About 2500 bursts, geometric with a deviation of 7.5: 4 deviations of the mean are 0.6.
        assert!((mean - 8.0).abs() < 0.6, "{mean} frames a burst");
        assert!((share(&lost) - 0.05).abs() < 0.006, "{}", share(&lost));
        // Frames that are lost each for itself at that ratio come 1.05 in a row.
        assert!(bursts.iter().any(|length| *length > 20.0));
    }

    #[test]
    fn gilbert_elliott_loses_by_its_states() {
        let lost = lossy(Impairment::new().loss_gilbert_elliott(0.02, 0.2, 0.01, 0.6), 400_000);
        // Bad for p / (p + r) of the time.
        let expected = 0.02 / 0.22 * 0.6 + 0.2 / 0.22 * 0.01;
        assert!((share(&lost) - expected).abs() < 0.004, "{} is not {expected}", share(&lost));
    }

    fn delays(distribution: Distribution) -> Vec<f64> {
        let impairment = Impairment::new().delay(50 * MS).jitter(10 * MS, distribution);
        lots(7, "sw", &impairment, 20_000).iter().map(|lot| lot.delays[0].as_secs_f64() * 1e3).collect()
    }

    fn mean_and_deviation(values: &[f64]) -> (f64, f64) {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / values.len() as f64;
        (mean, variance.sqrt())
    }

    #[test]
    fn jitter_is_distributed_as_asked() {
        let uniform = delays(Distribution::Uniform);
        let (mean, deviation) = mean_and_deviation(&uniform);
        assert!((mean - 50.0).abs() < 0.2, "{mean}");
        assert!((deviation - 10.0 / 3f64.sqrt()).abs() < 0.1, "{deviation}");
        assert!(uniform.iter().all(|ms| (40.0..=60.0).contains(ms)));

        let normal = delays(Distribution::Normal);
        let (mean, deviation) = mean_and_deviation(&normal);
        assert!((mean - 50.0).abs() < 0.3, "{mean}");
        assert!((deviation - 10.0).abs() < 0.3, "{deviation}");
        let within = normal.iter().filter(|ms| (40.0..60.0).contains(*ms)).count() as f64 / 20_000.0;
        assert!((within - 0.6827).abs() < 0.015, "{within} within one deviation");
    }

    #[test]
    fn a_delay_is_never_negative() {
        let impairment = Impairment::new().delay(MS).jitter(MS, Distribution::Normal);
        let lots = lots(3, "sw", &impairment, 10_000);
        assert!(lots.iter().any(|lot| lot.delays[0].is_zero()));
        assert!(lots.iter().all(|lot| lot.delays[0] < 10 * MS));
    }
}
