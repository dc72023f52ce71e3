// The words of a plan are all that is needed: executed one by one, nothing else known but the crop's shape, they give the
// bytes of the CPU path.
#include "pixel_fixtures.h"

#include <cmath>
#include <stdexcept>

#include "pixels/device_plan.h"

namespace maxcrops_test {
namespace {

constexpr Tile kTile{16, 64};
constexpr Size kSizes[] = {{1, 1}, {1, 97}, {97, 1}, {37, 53}, {3, 300}, {70, 70}, {211, 199}, {240, 320}};

std::vector<Spec> specs_for(Resize resize) {
    std::vector<Spec> specs = pixel_specs();
    if (resize == Resize::kBilinearAntialias) {
        specs.push_back(pixel_spec({14, 5, 1, 1}));
        specs.back().crop.fit = specs.back().crop.global_fit = Fit::kLetterboxCeil;
    }
    return specs;
}

// A batch of images, some upside down in memory, and its words in memory of exactly their size.
struct Batch {
    Batch(const Spec& spec, const Preprocessor& preprocessor) {
        AxisTables tables;
        for (const Size size : kSizes) {
            pixels.push_back(random_pixels(layouts.size(), size));
            layouts.push_back(make_layout(spec, knob_of(spec), size));
            ImageView image = packed_view(pixels.back().data(), size);
            if (layouts.size() % 2 == 0) {
                image.data += (size.height - 1) * image.row_stride;
                image.row_stride = -image.row_stride;
            }
            images.push_back(image);
        }
        std::vector<DeviceImage> jobs;
        for (size_t i = 0; i < images.size(); ++i) jobs.push_back({images[i], &layouts[i]});
        plan = std::make_unique<DevicePlan>(preprocessor.device_plan(jobs, kTile));
        words = exact<int64_t>(plan->num_words());
        plan->write(words.get());
    }

    std::vector<Bytes> pixels;
    std::vector<Layout> layouts;
    std::vector<ImageView> images;
    std::unique_ptr<DevicePlan> plan;
    std::unique_ptr<int64_t[]> words;
};

class Words {
public:
    explicit Words(const Batch& batch) : words_(batch.words.get()), plan_(*batch.plan) {}

    float constant(int64_t index) const { return float_at(index); }
    int64_t crop(int64_t index, CropWord word) const {
        return words_[plan_.first_crop_word() + index * kCropWords + static_cast<int64_t>(word)];
    }
    int64_t view(int64_t index, ViewWord word) const {
        return words_[plan_.first_view_word() + index * kViewWords + static_cast<int64_t>(word)];
    }
    int64_t low(int64_t word) const { return words_[word] & 0xFFFFFFFF; }
    int64_t high(int64_t word) const { return words_[word] >> 32; }
    float high_float(int64_t word) const { return float_at(2 * word + 1); }
    float float_at(int64_t index) const {
        float value;
        std::memcpy(&value, reinterpret_cast<const char*>(words_) + index * 4, sizeof value);
        return value;
    }

private:
    const int64_t* words_;
    const DevicePlan& plan_;
};

float blend(float first, float second, float weight) { return std::fma(first, 1.0F - weight, second * weight); }

template <typename Value>
float window_sum(const Words& words, int64_t first_weight, int64_t taps, const Value& value) {
    float sum = 0.0F;
    for (int64_t j = 0; j < taps; ++j) {
        const float weight = words.float_at(first_weight + j);
        sum = j < 1 + (taps - 1) / 4 * 4 ? sum + value(j) * weight : std::fma(value(j), weight, sum);
    }
    return sum;
}

// Value c of the pixel (y, x) of a view's content; normalised.
float value_at(const Words& words, Resize resize, int64_t view, int64_t y, int64_t x, int64_t c) {
    const auto of = [&](ViewWord word) { return words.view(view, word); };
    const auto byte = [&](int64_t row, int64_t col) {
        const auto* address = reinterpret_cast<const uint8_t*>(static_cast<uintptr_t>(of(ViewWord::kAddress)));
        return static_cast<float>(address[row * of(ViewWord::kRowStride) + col * of(ViewWord::kColStride) +
                                          c * of(ViewWord::kChannelStride)]);
    };
    const int64_t row = of(ViewWord::kRows) + y, col = of(ViewWord::kCols) + x;
    const int64_t top = words.low(row), left = words.low(col);
    if (resize == Resize::kBilinearAntialias) {
        const float sum = window_sum(
            words, of(ViewWord::kRowWeights) + y * of(ViewWord::kRowTaps), words.high(row), [&](int64_t j) {
                return window_sum(words, of(ViewWord::kColWeights) + x * of(ViewWord::kColTaps), words.high(col),
                                  [&](int64_t i) { return byte(top + j, left + i) / 255.0F; });
            });
        return (std::clamp(sum, 0.0F, 1.0F) - words.constant(c)) / words.constant(3 + c);
    }
    const int64_t bottom = std::min(top + 1, of(ViewWord::kHeight) - 1);
    const int64_t right = std::min(left + 1, of(ViewWord::kWidth) - 1);
    const float v1 = words.high_float(row), u1 = words.high_float(col), v0 = 1.0F - v1, u0 = 1.0F - u1;
    const float a = byte(top, left), b = byte(top, right), d = byte(bottom, left), e = byte(bottom, right);
    const float value = of(ViewWord::kChained)
                            ? std::fma(v1 * u1, e, std::fma(v1 * u0, d, std::fma(v0 * u0, a, v0 * u1 * b)))
                            : blend(blend(a, b, u1), blend(d, e, u1), v1);
    return (std::nearbyint(value) - words.constant(c)) / words.constant(3 + c);
}

std::vector<float> executed(const Batch& batch, Resize resize, const CropRule& crop) {
    const Words words(batch);
    const int64_t patches = crop.crop_patches(), patch = crop.patch_size, values = 3 * patch * patch;
    std::vector<float> out(static_cast<size_t>(batch.plan->num_crops() * patches * patches * values));
    for (int64_t i = 0; i < batch.plan->num_crops(); ++i) {
        const int64_t view = words.crop(i, CropWord::kView);
        for (int64_t e = 0; e < patches * patches * values; ++e) {
            const int64_t p = e / values, in = e % values;
            const int64_t y = words.crop(i, CropWord::kTop) - words.view(view, ViewWord::kTop) +
                              p / patches * patch + in / (3 * patch);
            const int64_t x = words.crop(i, CropWord::kLeft) - words.view(view, ViewWord::kLeft) +
                              p % patches * patch + in / 3 % patch;
            const bool content = y >= 0 && y < words.view(view, ViewWord::kContentHeight) && x >= 0 &&
                                 x < words.view(view, ViewWord::kContentWidth);
            out[static_cast<size_t>(words.crop(i, CropWord::kOutput) + e)] =
                content ? value_at(words, resize, view, y, x, e % 3)
                        : (0.0F - words.constant(e % 3)) / words.constant(3 + e % 3);
        }
    }
    return out;
}

class DevicePlanTest : public testing::TestWithParam<Resize> {};

INSTANTIATE_TEST_SUITE_P(Resizes, DevicePlanTest, testing::ValuesIn(kAllResizes));

TEST_P(DevicePlanTest, WordsGiveTheBytesOfTheCpu) {
    const Preprocessor preprocessor(clip_rule(GetParam()), PixelType::kFloat32);
    for (const Spec& spec : specs_for(GetParam())) {
        const Batch batch(spec, preprocessor);
        Bytes expected;
        for (size_t i = 0; i < batch.images.size(); ++i) {
            const Bytes one = run_one(preprocessor, batch.images[i], batch.layouts[i], 1, Isa::kScalar);
            expected.insert(expected.end(), one.begin(), one.end());
        }
        const std::vector<float> got = executed(batch, GetParam(), spec.crop);
        ASSERT_EQ(expected.size(), got.size() * sizeof(float));
        EXPECT_EQ(std::memcmp(expected.data(), got.data(), expected.size()), 0) << spec.crop.patch_size;
    }
}

TEST_P(DevicePlanTest, TilesCoverEveryViewOnce) {
    const bool windows = GetParam() == Resize::kBilinearAntialias;
    const Preprocessor preprocessor(clip_rule(GetParam()), PixelType::kFloat32);
    const Batch batch(pixel_specs()[0], preprocessor);
    const Words words(batch);
    int64_t tiles = 0, floats = 0;
    for (int64_t i = 0; windows && i < batch.plan->num_views(); ++i) {
        EXPECT_EQ(words.view(i, ViewWord::kFirstTile), tiles);
        const bool has_two_taps = std::max(words.view(i, ViewWord::kRowTaps), words.view(i, ViewWord::kColTaps)) <= 2;
        EXPECT_EQ(words.view(i, ViewWord::kWorkspace), has_two_taps ? -1 : floats);
        if (has_two_taps) continue;
        const int64_t rows = words.view(i, ViewWord::kHeight), values = 3 * words.view(i, ViewWord::kContentWidth);
        tiles += ceil_div(rows, kTile.rows) * ceil_div(values, kTile.values);
        floats += rows * values;
    }
    EXPECT_EQ(batch.plan->num_tiles(), tiles);
    EXPECT_EQ(batch.plan->workspace_floats(), floats);
}

TEST_P(DevicePlanTest, ReciprocalsAreThoseOfTheDivisorsAndOf255) {
    const Preprocessor preprocessor(clip_rule(GetParam()), PixelType::kFloat32);
    const Batch batch(pixel_specs()[0], preprocessor);
    const Words words(batch);
    for (int64_t c = 0; c < 3; ++c) {
        EXPECT_EQ(words.constant(6 + c), reciprocal_of(words.constant(3 + c)).high);
        EXPECT_EQ(words.constant(9 + c), reciprocal_of(words.constant(3 + c)).low);
    }
    EXPECT_EQ(words.constant(12), reciprocal_of(255.0F).high);
    EXPECT_EQ(words.constant(13), reciprocal_of(255.0F).low);
    EXPECT_TRUE(batch.plan->by_arithmetic());
}

// (x - mean) / std as the antialiased kernel has it.
TEST(DevicePlan, TwoRemaindersGiveTheQuotient) {
    const PixelRule rule = clip_rule(Resize::kBilinearAntialias);
    for (size_t c = 0; c < 3; ++c) {
        for (const float mean : {rule.mean[c], 0.0F, 0x1p-20F}) {
            for (const float std : {rule.std[c], 0x1.fffffep-1F, 0x1.fffffep19F, 0x1p-20F}) {
                const float reciprocal = reciprocal_of(std).high;
                for (int64_t i = 0; i <= 300000; ++i) {
                    // Every size from 2^-90 to 1, and equal steps.
                    const float x = (i % 3 == 0 ? std::exp2(-static_cast<float>(i) / 3333.4F)
                                                : static_cast<float>(i) / 300000.0F) - mean;
                    float quotient = x * reciprocal;
                    for (int step = 0; step < 2; ++step) {
                        quotient = std::fma(std::fma(-quotient, std, x), reciprocal, quotient);
                    }
                    ASSERT_EQ(quotient, x / std) << x << " / " << std;
                }
            }
        }
    }
}

TEST(DevicePlan, EqualAxesAreStoredOnce) {
    const Preprocessor preprocessor(clip_rule(Resize::kBilinearRounded), PixelType::kFloat32);
    const Spec spec = pixel_specs()[0];
    const Size size{100, 100};
    const Layout layout = make_layout(spec, knob_of(spec), size);
    const DeviceImage image{packed_view(nullptr, size), &layout};
    const int64_t one = preprocessor.device_plan({image}, kTile).num_words();
    const int64_t two = preprocessor.device_plan({image, image}, kTile).num_words();
    EXPECT_EQ(two - one, static_cast<int64_t>(layout.views().size()) * kViewWords + layout.num_crops * kCropWords);
}

TEST(DevicePlan, RefusesImagesThatSpanTooManyBytes) {
    const Preprocessor preprocessor(clip_rule(Resize::kBilinearRounded), PixelType::kFloat32);
    const Spec spec = pixel_specs()[0];
    const auto plan = [&](Size size, int64_t row, int64_t col, int64_t channel) {
        const Layout layout = make_layout(spec, knob_of(spec), size);
        return preprocessor.device_plan({{{nullptr, size, row, col, channel}, &layout}}, kTile).num_crops();
    };
    const int64_t most = kMaxDeviceImageBytes;
    EXPECT_GT(plan({2, 1}, most - 3, 3, 1), 0);
    EXPECT_THROW(plan({2, 1}, most - 2, 3, 1), std::invalid_argument);
    EXPECT_GT(plan({2, 2}, 4 - most, 1, 1), 0);
    EXPECT_THROW(plan({2, 2}, -most, 1, 1), std::invalid_argument);
    EXPECT_THROW(plan({3, 1}, most / 2 + 1, 3, 1), std::invalid_argument);
    EXPECT_THROW(plan({2, 1}, INT64_MAX, 3, 1), std::invalid_argument);
    EXPECT_GT(plan({2, 1}, 0, 0, 0), 0);  // a single byte, broadcast
}

TEST(DevicePlan, RefusesViewsWithTooManyResizedValues) {
    const Preprocessor preprocessor(clip_rule(Resize::kBilinearAntialias), PixelType::kFloat32);
    const Spec spec = pixel_spec({16, 128, 0, 0}, 1);  // 2048 px a side: 6144 values a row
    const auto plan = [&](int64_t height) {
        const Size size{height, 1};
        const Layout layout = make_layout(spec, knob_of(spec), size);
        return preprocessor.device_plan({{packed_view(nullptr, size), &layout}}, kTile).workspace_floats();
    };
    const int64_t most = kMaxDeviceRowValues / 6144;
    EXPECT_GT(plan(most), 0);
    EXPECT_THROW(plan(most + 1), std::invalid_argument);
}

TEST(DevicePlan, OutputsBehindTheReachOf32Bits) {
    const Preprocessor preprocessor(clip_rule(Resize::kBilinearRounded), PixelType::kBFloat16);
    const Spec spec = pixel_spec({16, 32, 0, 0}, 16);
    const Size size{2048, 2048};
    const Layout layout = make_layout(spec, knob_of(spec), size);
    ASSERT_EQ(layout.num_crops, 17);
    const std::vector<DeviceImage> images(200, {packed_view(nullptr, size), &layout});
    const DevicePlan plan = preprocessor.device_plan(images, kTile);
    const auto words = exact<int64_t>(plan.num_words());
    plan.write(words.get());
    const int64_t crops = 200 * 17, values = 3 * 512 * 512;
    EXPECT_EQ(words[plan.first_crop_word() + (crops - 1) * kCropWords + static_cast<int64_t>(CropWord::kOutput)],
              (crops - 1) * values);
    EXPECT_GT((crops - 1) * values, int64_t{1} << 31);
}

}  // namespace
}  // namespace maxcrops_test
