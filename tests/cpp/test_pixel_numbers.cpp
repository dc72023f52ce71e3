// From bytes to what an encoder reads, number by number: normalisation, 16-bit rounding, the weights of an axis.
#include "pixel_fixtures.h"

#include <cmath>
#include <limits>

namespace maxcrops_test {
namespace {

class PixelOutputTest : public PixelKernelsTest {};

INSTANTIATE_TEST_SUITE_P(Isa, PixelOutputTest, testing::ValuesIn(available_isas()), isa_param);

// -- normalisation -------------------------------------------------------------------------------------------------

std::vector<ByteNormalization> normalizations() {
    const PixelRule clip = clip_rule(Resize::kBilinearRounded);
    return {byte_normalization(clip.mean, clip.std), byte_normalization({0.5F, 0.5F, 0.5F}, {0.5F, 0.5F, 0.5F}),
            byte_normalization({0.485F, 0.456F, 0.406F}, {0.229F, 0.224F, 0.225F}),
            byte_normalization({0.0F, 0.0F, 0.0F}, {1.0F, 1.0F, 1.0F}),
            byte_normalization({0.25F / 255, 0.25F / 255, 0.25F / 255}, {1.0F / 255, 1.0F / 255, 1.0F / 255}),  // quarters
            byte_normalization({0.0F, 128.0F / 255.0F, 1.0F}, {1e-3F, 1e-6F, 3.7F}),  // float16 overflows
            byte_normalization({0.5F, 0.5F, 0.5F}, {1e-42F, 1.0F, 1e30F})};           // no finite reciprocal
}

TEST(Normalization, TableIsTheDefinition) {
    const std::array<float, 3> mean{0.1F, 0.0F, 0.9F}, std{0.3F, 1.0F, 0.01F};
    const ByteNormalization n = byte_normalization(mean, std);
    for (size_t c = 0; c < 3; ++c) {
        for (size_t u = 0; u < 256; ++u) {
            const float shifted = static_cast<float>(u) - mean[c] * 255.0F;
            ASSERT_EQ(n.table[c][u], shifted / (std[c] * 255.0F));
        }
    }
}

TEST(Normalization, ArithmeticEqualsTheTableBitForBitWhereItIsUsed) {
    const std::vector<ByteNormalization> all = normalizations();
    for (size_t i = 0; i < 5; ++i) EXPECT_TRUE(all[i].by_arithmetic) << i;
    EXPECT_FALSE(all.back().by_arithmetic);
    Random random(2);
    int64_t by_arithmetic = 0;
    for (int i = 0; i < 500; ++i) {
        const auto unit = [&] { return static_cast<float>(random(1, 1 << 24)) / static_cast<float>(1 << 24); };
        const ByteNormalization n = byte_normalization({unit(), unit(), unit()}, {unit(), unit(), unit()});
        by_arithmetic += n.by_arithmetic;
        for (size_t c = 0; n.by_arithmetic && c < 3; ++c) {
            for (size_t u = 0; u < 256; ++u) {
                const float value = divide(static_cast<float>(u) - n.offset[c], n.reciprocal[c]);
                ASSERT_EQ(std::memcmp(&value, &n.table[c][u], sizeof value), 0);
            }
        }
    }
    EXPECT_GT(by_arithmetic, 450);  // otherwise the fast path is not worth its code
}

TEST(Normalization, KnowsWhetherItIsOdd) {
    const std::vector<ByteNormalization> all = normalizations();
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].odd, i == 1) << i;
    EXPECT_TRUE(byte_normalization({0.5F, 0.5F, 0.5F}, {0.3F, 0.3F, 0.3F}).odd);
    EXPECT_FALSE(byte_normalization({0.5F, 0.5F, 0.5F}, {0.3F, 0.3F, 0.4F}).odd);
}

TEST(Normalization, KnowsWhetherAValueLiesHalfwayBetweenTwoOfBfloat16) {
    const std::vector<ByteNormalization> all = normalizations();
    for (size_t i = 0; i < all.size(); ++i) EXPECT_EQ(all[i].bfloat16_ties, i == 4) << i;
}

TEST(Normalization, DivisionBy255IsExactForAllBytes) {
    for (int u = 0; u < 256; ++u) {
        ASSERT_EQ(divide(static_cast<float>(u), reciprocal_of(255.0F)), static_cast<float>(u) / 255.0F) << u;
    }
}

constexpr int64_t kCounts[] = {0, 1, 2, 3, 15, 16, 17, 31, 47, 48, 49, 63, 64, 95, 96, 97, 129, 193, 588};

TEST_P(PixelOutputTest, NormalizesBytesAtEveryAlignmentFromEveryChannel) {
    for (const PixelType type : kAllTypes) {
        for (const int64_t count : kCounts) {
            const auto in = exact<uint8_t>(count);
            for (int64_t i = 0; i < count; ++i) in[static_cast<size_t>(i)] = static_cast<uint8_t>(i * 7 + count);
            for (const ByteNormalization& n : normalizations()) {
                for (int64_t misalignment = 0; misalignment < 64; misalignment += bytes_of(type)) {
                    for (int64_t channel = 0; channel < 3; ++channel) {
                        const bool stream = (misalignment / bytes_of(type) + channel + count) % 2 == 0;
                        const auto write = [&](const PixelKernels& k, uint8_t* out) {
                            k.normalize_bytes(n, in.get(), count, channel, type, stream, out);
                        };
                        expect_scalar_bytes(count * bytes_of(type), misalignment, write, kernels());
                        ASSERT_FALSE(HasFatalFailure()) << count << " values from " << channel << ", stream " << stream;
                    }
                }
            }
        }
    }
}

TEST_P(PixelOutputTest, NormalizesEveryByteInEveryChannel) {
    const auto in = exact<uint8_t>(768);
    for (size_t i = 0; i < 768; ++i) in[i] = static_cast<uint8_t>(i / 3);
    for (const ByteNormalization& n : normalizations()) {
        for (int64_t channel = 0; channel < 3; ++channel) {
            for (const PixelType type : kAllTypes) {
                for (const bool stream : {false, true}) {
                    const auto write = [&](const PixelKernels& k, uint8_t* out) {
                        k.normalize_bytes(n, in.get(), 768, channel, type, stream, out);
                    };
                    expect_scalar_bytes(768 * bytes_of(type), 0, write, kernels());
                    ASSERT_FALSE(HasFatalFailure()) << "from " << channel << ", stream " << stream;
                }
            }
        }
    }
}

// -- 16 bits -------------------------------------------------------------------------------------------------------

// The type's values that are not negative, in the order of their bits; the last one stands for infinity.
std::vector<double> values_of_16_bits(int fraction_bits, int smallest_exponent) {
    std::vector<double> values;
    for (int bits = 0; bits <= 0x7FFF >> fraction_bits << fraction_bits; ++bits) {
        const int exponent = bits >> fraction_bits, fraction = bits & ((1 << fraction_bits) - 1);
        values.push_back(exponent == 0 ? std::ldexp(fraction, smallest_exponent)
                                       : std::ldexp((1 << fraction_bits) + fraction, smallest_exponent + exponent - 1));
    }
    return values;
}

std::vector<double> half_values() { return values_of_16_bits(10, -24); }
std::vector<double> bfloat_values() { return values_of_16_bits(7, -133); }

// The nearest value, of two equally near ones that with an even last bit. Sums of neighbours are exact in double.
uint16_t nearest(const std::vector<double>& values, float value) {
    const double magnitude = std::abs(static_cast<double>(value));
    auto index = static_cast<size_t>(std::upper_bound(values.begin(), values.end(), magnitude) - values.begin() - 1);
    if (index + 1 < values.size()) {
        const double twice = values[index] + values[index + 1];
        if (2 * magnitude > twice || (2 * magnitude == twice && index % 2 == 1)) ++index;
    }
    return static_cast<uint16_t>(index | (std::signbit(value) ? 0x8000U : 0U));
}

// Both signs of each value of a 16-bit type, of each middle between two, and of what lies next to them in float32.
void add_neighbours(const std::vector<double>& values, std::vector<float>* floats) {
    constexpr float most = std::numeric_limits<float>::infinity();
    for (size_t i = 0; i + 1 < values.size(); ++i) {
        for (const double exact_value : {values[i], (values[i] + values[i + 1]) / 2}) {
            const auto value = static_cast<float>(exact_value);
            for (const float near : {std::nextafter(value, -most), value, std::nextafter(value, most)}) {
                floats->push_back(near);
                floats->push_back(-near);
            }
        }
    }
}

std::vector<float> interesting_floats() {
    std::vector<float> floats;
    add_neighbours(half_values(), &floats);
    add_neighbours(bfloat_values(), &floats);
    using Limits = std::numeric_limits<float>;
    for (const float value : {0.0F, 65504.0F, 65520.0F, 65536.0F, Limits::denorm_min(), Limits::min(), Limits::max(),
                              Limits::infinity()}) {
        floats.push_back(value);
        floats.push_back(-value);
    }
    return floats;
}

TEST(SixteenBits, RoundToTheNearestAndTiesToEven) {
    const std::vector<double> halves = half_values(), bfloats = bfloat_values();
    for (const float value : interesting_floats()) {
        ASSERT_EQ(to_float16(value), nearest(halves, value)) << value;
        ASSERT_EQ(to_bfloat16(value), nearest(bfloats, value)) << value;
    }
}

TEST(SixteenBits, KnownBits) {
    EXPECT_EQ(to_float16(1.0F), 0x3C00);
    EXPECT_EQ(to_bfloat16(1.0F), 0x3F80);
    EXPECT_EQ(to_float16(-0.0F), 0x8000);
    EXPECT_EQ(to_bfloat16(-0.0F), 0x8000);
    EXPECT_EQ(to_float16(std::nextafter(65520.0F, 0.0F)), 0x7BFF);
    EXPECT_EQ(to_float16(65520.0F), 0x7C00);
    EXPECT_EQ(to_bfloat16(std::numeric_limits<float>::max()), 0x7F80);
    EXPECT_EQ(to_float16(std::ldexp(1.0F, -25)), 0x0000);
    EXPECT_EQ(to_float16(std::nextafter(std::ldexp(1.0F, -25), 1.0F)), 0x0001);
}

TEST_P(PixelOutputTest, CastsEveryInterestingFloat) {
    const std::vector<float> floats = interesting_floats();
    const auto count = static_cast<int64_t>(floats.size());
    for (const PixelType type : kAllTypes) {
        const auto write = [&](const PixelKernels& k, uint8_t* out) {
            k.cast_floats(floats.data(), count, type, true, out);
        };
        expect_scalar_bytes(count * bytes_of(type), 0, write, kernels());
    }
}

TEST_P(PixelOutputTest, CastsFloatsAtEveryAlignment) {
    for (const PixelType type : kAllTypes) {
        for (const int64_t count : kCounts) {
            const auto in = exact<float>(count);
            for (int64_t i = 0; i < count; ++i) in[static_cast<size_t>(i)] = std::sin(static_cast<float>(i)) * 3.0F;
            for (int64_t misalignment = 0; misalignment < 64; misalignment += bytes_of(type)) {
                for (const bool stream : {false, true}) {
                    const auto write = [&](const PixelKernels& k, uint8_t* out) {
                        k.cast_floats(in.get(), count, type, stream, out);
                    };
                    expect_scalar_bytes(count * bytes_of(type), misalignment, write, kernels());
                    ASSERT_FALSE(HasFatalFailure()) << count << " values, stream " << stream;
                }
            }
        }
    }
}

// -- axes ----------------------------------------------------------------------------------------------------------

std::vector<std::pair<int64_t, int64_t>> axis_cases() {
    std::vector<std::pair<int64_t, int64_t>> cases{{1, 100000}, {100000, 1}, {65521, 378}, {378, 65521}, {7919, 7907}};
    for (int64_t in = 1; in <= 40; ++in) {
        for (int64_t out = 1; out <= 40; ++out) cases.push_back({in, out});
    }
    Random random(5);
    for (int i = 0; i < 500; ++i) cases.push_back({random(1, 20000), random(1, 2000)});
    return cases;
}

TEST(Axis, TwoTapsStayInRangeAndNeverGoBack) {
    for (const auto& [in, out] : axis_cases()) {
        const TwoTapAxis axis = two_tap_axis(in, out);
        ASSERT_EQ(axis.in, in);
        ASSERT_EQ(axis.first.size(), static_cast<size_t>(out));
        ASSERT_EQ(axis.weight.size(), static_cast<size_t>(out));
        for (size_t i = 0; i < axis.first.size(); ++i) {
            ASSERT_TRUE(axis.first[i] >= (i > 0 ? axis.first[i - 1] : 0) && axis.first[i] < in) << in << " to " << out;
            ASSERT_TRUE(axis.weight[i] >= 0.0F && axis.weight[i] <= 1.0F) << in << " to " << out;
        }
    }
}

TEST(Axis, WindowsStayInRangeNeverGoBackAndSumToOne) {
    for (const auto& [in, out] : axis_cases()) {
        const WindowAxis axis = window_axis(in, out);
        ASSERT_EQ(axis.first.size(), static_cast<size_t>(out));
        ASSERT_EQ(axis.weights.size(), static_cast<size_t>(out * axis.stride));
        for (int64_t i = 0; i < out; ++i) {
            const int64_t first = axis.first[static_cast<size_t>(i)], size = axis.size[static_cast<size_t>(i)];
            ASSERT_TRUE(size >= 1 && size <= axis.stride && first >= 0 && axis.end(i) <= in) << in << " to " << out;
            ASSERT_TRUE(i == 0 || (first >= axis.first[static_cast<size_t>(i - 1)] && axis.end(i) >= axis.end(i - 1)))
                << in << " to " << out;
            double sum = 0;
            for (int64_t j = 0; j < axis.stride; ++j) {
                const float weight = axis.weights[static_cast<size_t>(i * axis.stride + j)];
                ASSERT_TRUE(j < size ? weight >= 0.0F : weight == 0.0F) << in << " to " << out;
                sum += static_cast<double>(weight);
            }
            // The divisor is a float32 sum of `size` terms, and each quotient rounds once more.
            ASSERT_NEAR(sum, 1.0, static_cast<double>(size + 1) * std::ldexp(1.0, -24)) << in << " to " << out;
        }
    }
}

TEST(Axis, LeavesAnAxisOfTheSameLengthAlone) {
    for (const int64_t length : {1, 2, 3, 97, 378, 65521}) {
        const TwoTapAxis taps = two_tap_axis(length, length);
        const WindowAxis windows = window_axis(length, length);
        for (size_t i = 0; i < static_cast<size_t>(length); ++i) {
            ASSERT_TRUE(taps.first[i] == static_cast<int64_t>(i) && taps.weight[i] == 0.0F);
            ASSERT_TRUE(windows.first[i] == static_cast<int64_t>(i) && windows.size[i] == 1);
        }
        EXPECT_EQ(windows.stride, 1);
        EXPECT_EQ(windows.weights, std::vector<float>(static_cast<size_t>(length), 1.0F));
    }
}

}  // namespace
}  // namespace maxcrops_test
