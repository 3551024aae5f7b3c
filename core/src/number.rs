//! Integer conversions that saturate: they neither fail nor wrap.

/// An integer type with a smallest and a largest value.
pub trait Whole: Copy + Default + PartialOrd {
    const LEAST: Self;
    const MOST: Self;
}

macro_rules! whole {
    ($($number:ty)*) => {
        $(impl Whole for $number {
            const LEAST: Self = <$number>::MIN;
            const MOST: Self = <$number>::MAX;
        })*
    };
}

whole!(i16 i32 i64 i128 u8 u16 u32 u64 u128 usize);

/// Converts an integer to another type. A value out of range becomes the nearest bound of that type.
#[must_use]
pub fn saturated<T: Whole + TryFrom<S>, S: Whole>(number: S) -> T {
    let nearest = if number < S::default() { T::LEAST } else { T::MOST };
    T::try_from(number).unwrap_or(nearest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_becomes_the_nearest_that_does() {
        assert_eq!(saturated::<i32, _>(7_usize), 7);
        assert_eq!(saturated::<i32, _>(u64::MAX), i32::MAX);
        assert_eq!(saturated::<u32, _>(-1_i64), 0);
        assert_eq!(saturated::<i16, _>(i64::MIN), i16::MIN);
    }
}
