// Images to crops: what is promised for any image, any memory layout, any number of threads.
#include "pixel_fixtures.h"

#include <cmath>
#include <stdexcept>
#include <thread>

#include "pixels/crop_stream.h"

namespace maxcrops_test {
namespace {

// Sides of 1 px, primes, 100 to 1, the canvas itself, and several crops.
constexpr Size kSizes[] = {{1, 1}, {1, 97}, {97, 1}, {37, 53}, {3, 300}, {70, 70}, {211, 199}, {480, 640}};

std::vector<Spec> letterbox_specs() {
    std::vector<Spec> specs{pixel_spec({14, 5, 1, 1}), pixel_spec({16, 3, 0, 0})};
    specs[0].crop.fit = specs[0].crop.global_fit = Fit::kLetterboxCeil;  // keeps at least 1 px
    specs[1].crop.fit = Fit::kLetterboxCeil;
    return specs;
}

std::vector<Spec> specs_for(Resize resize) {
    std::vector<Spec> specs = pixel_specs();
    if (resize == Resize::kBilinearAntialias) {
        for (const Spec& spec : letterbox_specs()) specs.push_back(spec);
    }
    return specs;
}

Layout layout_of(const Spec& spec, Size size) { return make_layout(spec, knob_of(spec), size); }

// -- against the definition ----------------------------------------------------------------------------------------

// A canvas as float32 [height, width, 3], pixel by pixel.
struct Canvas {
    Size size;
    std::vector<float> values;

    float* at(int64_t y, int64_t x) { return &values[static_cast<size_t>(3 * (y * size.width + x))]; }
};

float blend(float first, float second, float weight) { return std::fma(first, 1.0F - weight, second * weight); }

Canvas rounded_canvas(const Bytes& pixels, Size image, Size size, const PixelRule& rule) {
    Canvas canvas{size, std::vector<float>(static_cast<size_t>(3 * size.height * size.width))};
    const ByteNormalization normalization = byte_normalization(rule.mean, rule.std);
    // torch takes the kernel of one thread for small outputs too.
    const bool chained = rule.resize == Resize::kBilinearRoundedChained || size.height + size.width <= 128;
    const TwoTapAxis rows = two_tap_axis(image.height, size.height), cols = two_tap_axis(image.width, size.width);
    for (int64_t y = 0; y < size.height; ++y) {
        for (int64_t x = 0; x < size.width; ++x) {
            const int64_t top = rows.first[static_cast<size_t>(y)], bottom = std::min(top + 1, image.height - 1);
            const int64_t left = cols.first[static_cast<size_t>(x)], right = std::min(left + 1, image.width - 1);
            const float v1 = rows.weight[static_cast<size_t>(y)], u1 = cols.weight[static_cast<size_t>(x)];
            const float v0 = 1.0F - v1, u0 = 1.0F - u1;
            for (int64_t c = 0; c < 3; ++c) {
                const auto pixel = [&](int64_t row, int64_t col) {
                    return static_cast<float>(pixels[static_cast<size_t>(3 * (row * image.width + col) + c)]);
                };
                const float a = pixel(top, left), b = pixel(top, right), d = pixel(bottom, left), e = pixel(bottom, right);
                const float value = chained ? std::fma(v1 * u1, e, std::fma(v1 * u0, d, std::fma(v0 * u0, a, v0 * u1 * b)))
                                            : blend(blend(a, b, u1), blend(d, e, u1), v1);
                canvas.at(y, x)[c] = normalization.table[static_cast<size_t>(c)][static_cast<size_t>(std::nearbyint(value))];
            }
        }
    }
    return canvas;
}

// Products added in groups of four behind the first, the rest fused.
template <typename Value>
float window_sum(const WindowAxis& axis, int64_t i, const Value& value) {
    const float* weights = &axis.weights[static_cast<size_t>(i * axis.stride)];
    const int64_t first = axis.first[static_cast<size_t>(i)], taps = axis.size[static_cast<size_t>(i)];
    const int64_t unfused = 1 + (taps - 1) / 4 * 4;
    float sum = value(first) * weights[0];
    for (int64_t j = 1; j < unfused; ++j) sum = sum + value(first + j) * weights[j];
    for (int64_t j = unfused; j < taps; ++j) sum = std::fma(value(first + j), weights[j], sum);
    return sum;
}

Canvas windowed_canvas(const Bytes& pixels, Size image, const View& view, const PixelRule& rule) {
    Canvas canvas{view.canvas, std::vector<float>(static_cast<size_t>(3 * view.canvas.height * view.canvas.width))};
    const Box& box = view.content;
    const WindowAxis rows = window_axis(image.height, box.height), cols = window_axis(image.width, box.width);
    Canvas wide{{image.height, box.width}, std::vector<float>(static_cast<size_t>(3 * image.height * box.width))};
    for (int64_t c = 0; c < 3; ++c) {
        const auto index = static_cast<size_t>(c);
        for (int64_t y = 0; y < image.height; ++y) {
            for (int64_t x = 0; x < box.width; ++x) {
                wide.at(y, x)[c] = window_sum(cols, x, [&](int64_t from) {
                    return static_cast<float>(pixels[static_cast<size_t>(3 * (y * image.width + from) + c)]) / 255.0F;
                });
            }
        }
        for (int64_t y = 0; y < view.canvas.height; ++y) {
            for (int64_t x = 0; x < view.canvas.width; ++x) {
                const int64_t row = y - box.top, col = x - box.left;
                const bool inside = row >= 0 && row < box.height && col >= 0 && col < box.width;
                const float value = inside ? window_sum(rows, row, [&](int64_t from) { return wide.at(from, col)[c]; }) : 0.0F;
                canvas.at(y, x)[c] = (std::clamp(value, 0.0F, 1.0F) - rule.mean[index]) / rule.std[index];
            }
        }
    }
    return canvas;
}

// The crops' patches, cut out of whole canvases: where crops overlap they so agree with the canvas and each other.
std::vector<float> defined_crops(const Bytes& pixels, const Layout& layout, const PixelRule& rule) {
    std::vector<float> result;
    const int64_t patch = layout.crop.patch_size;
    for (const View& view : layout.views()) {
        Canvas canvas = rule.resize == Resize::kBilinearAntialias ? windowed_canvas(pixels, layout.image, view, rule)
                                                                  : rounded_canvas(pixels, layout.image, view.canvas, rule);
        for (const Box& crop : view.crops) {
            for (int64_t top = crop.top; top < crop.top + crop.height; top += patch) {
                for (int64_t left = crop.left; left < crop.left + crop.width; left += patch) {
                    for (int64_t y = top; y < top + patch; ++y) {
                        result.insert(result.end(), canvas.at(y, left), canvas.at(y, left) + 3 * patch);
                    }
                }
            }
        }
    }
    return result;
}

Bytes as_type(const std::vector<float>& values, PixelType type) {
    Bytes bytes(values.size() * static_cast<size_t>(bytes_of(type)));
    kScalarPixelKernels.cast_floats(values.data(), static_cast<int64_t>(values.size()), type, false, bytes.data());
    return bytes;
}

class PreprocessTest : public testing::TestWithParam<Isa> {};

INSTANTIATE_TEST_SUITE_P(Isa, PreprocessTest, testing::ValuesIn(available_isas()), isa_param);

TEST_P(PreprocessTest, GivesTheDefinitionForAnyNumberOfThreads) {
    int turn = 0;
    for (const Resize resize : kAllResizes) {
        for (const Spec& spec : specs_for(resize)) {
            for (const Size size : kSizes) {
                const Layout layout = layout_of(spec, size);
                const Bytes pixels = random_pixels(static_cast<uint64_t>(size.width), size);
                const PixelType type = kAllTypes[turn++ % 3];
                const Preprocessor preprocessor(clip_rule(resize), type);
                const Bytes expected = as_type(defined_crops(pixels, layout, clip_rule(resize)), type);
                for (int threads = 1; threads <= 5; ++threads) {
                    const Bytes crops = run_one(preprocessor, packed_view(pixels.data(), size), layout, threads, GetParam(),
                                                static_cast<uint8_t>(threads % 2 == 0 ? 0xA5 : 0x5A));
                    ASSERT_TRUE(crops == expected) << testing::PrintToString(size) << ", " << threads << " threads";
                }
            }
        }
    }
}

TEST_P(PreprocessTest, StreamsLargeOutputsToAnyElement) {
    const Size size{701, 907};
    const Bytes pixels = random_pixels(1, size);
    const Layout layout = layout_of(pixel_spec({14, 27, 4, 4}, 12), size);
    ASSERT_GT(output_bytes(layout, PixelType::kBFloat16), int64_t{8} << 20);
    for (const Resize resize : kAllResizes) {
        for (const PixelType type : {PixelType::kFloat32, PixelType::kBFloat16}) {
            const Preprocessor preprocessor(clip_rule(resize), type);
            const Bytes expected = as_type(defined_crops(pixels, layout, clip_rule(resize)), type);
            for (const int64_t misalignment : {int64_t{0}, bytes_of(type), 3 * bytes_of(type)}) {
                Guarded out(output_bytes(layout, type), 0xA5, misalignment);
                preprocessor.run({{packed_view(pixels.data(), size), &layout, out.data()}}, 2, GetParam());
                ASSERT_TRUE(out.intact() && out.content() == expected) << misalignment;
            }
        }
    }
}

// -- many at once --------------------------------------------------------------------------------------------------

TEST_P(PreprocessTest, MakesManyImagesAtOnceAsEachAlone) {
    for (const Resize resize : kAllResizes) {
        const Preprocessor preprocessor(clip_rule(resize), PixelType::kBFloat16);
        for (const size_t num_jobs : {size_t{0}, size_t{1}, size_t{3}, size_t{9}, size_t{24}}) {
            for (const int threads : {0, 1, 2, 5}) {
                std::vector<Bytes> pixels, expected;
                std::vector<Layout> layouts;
                std::vector<Guarded> outs;
                const std::vector<Spec> specs = specs_for(resize);
                for (size_t i = 0; i < num_jobs; ++i) {
                    const Size size = kSizes[i % std::size(kSizes)];
                    pixels.push_back(random_pixels(i, size));
                    layouts.push_back(layout_of(specs[i % specs.size()], size));
                    outs.emplace_back(output_bytes(layouts.back(), preprocessor.type()), uint8_t{0xA5});
                    expected.push_back(
                        run_one(preprocessor, packed_view(pixels[i].data(), size), layouts[i], 1, Isa::kScalar, 0x5A));
                }
                std::vector<ImageJob> jobs;
                for (size_t i = 0; i < num_jobs; ++i) {
                    jobs.push_back({packed_view(pixels[i].data(), layouts[i].image), &layouts[i], outs[i].data()});
                }
                preprocessor.run(jobs, threads, GetParam());
                for (size_t i = 0; i < num_jobs; ++i) {
                    ASSERT_TRUE(outs[i].intact() && outs[i].content() == expected[i]) << i << " of " << num_jobs;
                }
            }
        }
    }
}

TEST_P(PreprocessTest, MayBeCalledFromManyThreadsAtOnce) {
    for (const Resize resize : kAllResizes) {
        const Preprocessor preprocessor(clip_rule(resize), PixelType::kFloat16);
        std::vector<std::thread> callers;
        std::vector<Bytes> results(6 * std::size(kSizes));
        for (size_t t = 0; t < 6; ++t) {
            callers.emplace_back([&, t] {
                for (size_t i = 0; i < std::size(kSizes); ++i) {
                    const Size size = kSizes[(i + t) % std::size(kSizes)];
                    const Bytes pixels = random_pixels(1, size);
                    results[t * std::size(kSizes) + (i + t) % std::size(kSizes)] =
                        run_one(preprocessor, packed_view(pixels.data(), size), layout_of(pixel_spec({14, 5, 1, 1}), size),
                                static_cast<int>(1 + t % 3), GetParam());
                }
            });
        }
        for (std::thread& caller : callers) caller.join();
        for (size_t i = std::size(kSizes); i < results.size(); ++i) {
            ASSERT_FALSE(results[i].empty());
            ASSERT_TRUE(results[i] == results[i % std::size(kSizes)]);
        }
    }
}

TEST(Preprocess, ForgetsTablesWithoutHarm) {  // more sizes than tables are kept for
    const Preprocessor preprocessor(clip_rule(Resize::kBilinearRounded), PixelType::kBFloat16);
    const Bytes pixels = random_pixels(1, {1, 700});
    for (const int64_t width : {700, 1, 700}) {
        for (int64_t w = width; w > 0 && w > width - 350; --w) {
            const Layout layout = layout_of(pixel_spec({1, 2, 0, 0}, 1), {1, w});
            const Bytes crops = run_one(preprocessor, packed_view(pixels.data(), {1, w}), layout, 1, Isa::kScalar);
            const Preprocessor fresh(preprocessor.rule(), preprocessor.type());
            ASSERT_TRUE(crops == run_one(fresh, packed_view(pixels.data(), {1, w}), layout, 1, Isa::kScalar)) << w;
        }
    }
}

// -- memory --------------------------------------------------------------------------------------------------------

// An image's bytes under other strides, in memory that begins with its first byte and ends with its last one.
struct Placed {
    std::unique_ptr<uint8_t[]> memory;
    ImageView view;
};

Placed placed(const Bytes& pixels, Size size, int64_t row, int64_t col, int64_t channel) {
    int64_t least = 0, most = 0;
    for (const int64_t reach : {row * (size.height - 1), col * (size.width - 1), 2 * channel}) {
        (reach < 0 ? least : most) += reach;
    }
    Placed result{exact<uint8_t>(most - least + 1), {}};
    std::fill_n(result.memory.get(), most - least + 1, uint8_t{0xEE});
    uint8_t* first = result.memory.get() - least;
    for (int64_t y = 0; y < size.height; ++y) {
        for (int64_t x = 0; x < size.width; ++x) {
            for (int64_t c = 0; c < 3; ++c) {
                first[y * row + x * col + c * channel] = pixels[static_cast<size_t>(3 * (y * size.width + x) + c)];
            }
        }
    }
    result.view = {first, size, row, col, channel};
    return result;
}

TEST_P(PreprocessTest, ReadsAnyStridesAndNothingBesideTheImage) {
    for (const Resize resize : kAllResizes) {
        const Preprocessor preprocessor(clip_rule(resize), PixelType::kBFloat16);
        for (const Size size : {Size{1, 1}, Size{1, 97}, Size{97, 1}, Size{37, 53}, Size{210, 3}, Size{119, 131}}) {
            const int64_t w = size.width, area = size.height * size.width;
            const int64_t strides[][3] = {
                {3 * w, 3, 1},       {3 * w + 1, 3, 1},  {3 * w + 200, 3, 1}, {-3 * w, 3, 1},       {-3 * w - 77, 3, 1},
                {4 * w, 4, 1},       {4 * w + 5, 4, 1},  {w, 1, area},        {w, 1, -area},        {3 * w, -3, 1},
                {3 * w, 3, -1},      {-4 * w, -4, -1},   {3, 3 * size.height, 1},
            };
            const Layout layout = layout_of(pixel_spec({14, 5, 1, 1}), size);
            const Bytes pixels = random_pixels(3, size);
            const Bytes expected = run_one(preprocessor, packed_view(pixels.data(), size), layout, 1, Isa::kScalar);
            for (const auto& [row, col, channel] : strides) {
                const Placed image = placed(pixels, size, row, col, channel);
                for (const int threads : {1, 3}) {
                    ASSERT_TRUE(run_one(preprocessor, image.view, layout, threads, GetParam()) == expected)
                        << testing::PrintToString(size) << " with strides " << row << ", " << col << ", " << channel;
                }
            }
        }
    }
}

TEST_P(PreprocessTest, ReadsGreyImagesAndRepeatedRows) {
    for (const Resize resize : kAllResizes) {
        const Preprocessor preprocessor(clip_rule(resize), PixelType::kFloat32);
        const Size size{41, 67};
        for (const auto& [row, col, channel] : {std::array<int64_t, 3>{67, 1, 0}, {0, 3, 1}, {0, 0, 0}, {1, 3, 1}}) {
            const int64_t bytes = 40 * row + 66 * col + 2 * channel + 1;
            const auto memory = exact<uint8_t>(bytes);
            fill_random(4, memory.get(), bytes);
            Bytes pixels;
            for (int64_t y = 0; y < size.height; ++y) {
                for (int64_t x = 0; x < size.width; ++x) {
                    for (int64_t c = 0; c < 3; ++c) {
                        pixels.push_back(memory[static_cast<size_t>(y * row + x * col + c * channel)]);
                    }
                }
            }
            const Layout layout = layout_of(pixel_spec({16, 3, 0, 0}), size);
            const Bytes expected = run_one(preprocessor, packed_view(pixels.data(), size), layout, 1, Isa::kScalar);
            ASSERT_TRUE(run_one(preprocessor, {memory.get(), size, row, col, channel}, layout, 2, GetParam()) == expected)
                << row << ", " << col << ", " << channel;
        }
    }
}

TEST_P(PreprocessTest, FlatImagesStayFlat) {
    for (const Resize resize : kAllResizes) {
        const PixelRule rule = clip_rule(resize);
        const Preprocessor preprocessor(rule, PixelType::kFloat32);
        for (const int level : {0, 1, 2, 127, 128, 254, 255}) {
            for (const Size size : kSizes) {
                const Bytes pixels(static_cast<size_t>(3 * size.height * size.width), static_cast<uint8_t>(level));
                const Layout layout = layout_of(pixel_spec({14, 5, 1, 1}), size);
                const Bytes crops = run_one(preprocessor, packed_view(pixels.data(), size), layout, 2, GetParam());
                std::vector<float> values(crops.size() / 4);
                std::memcpy(values.data(), crops.data(), crops.size());
                for (size_t i = 0; i < values.size(); ++i) {
                    const size_t c = i % 3;
                    const float u = static_cast<float>(level);
                    if (resize != Resize::kBilinearAntialias) {
                        ASSERT_EQ(values[i], (u - rule.mean[c] * 255.0F) / (rule.std[c] * 255.0F)) << level;
                    } else {
                        // Two sums of at most 210 products, each a rounding of up to 2^-24, divided by std > 0.26.
                        ASSERT_NEAR(values[i], (u / 255.0F - rule.mean[c]) / rule.std[c], 1e-4F) << level;
                    }
                }
            }
        }
    }
}

// -- refusals ------------------------------------------------------------------------------------------------------

void expect_refused(Resize resize, const Spec& spec, Size size, const std::string& why) {
    const PixelRule rule = clip_rule(resize);
    const Layout layout = layout_of(spec, size), good = layout_of(pixel_spec({14, 5, 1, 1}), size);
    const auto message_of = [](const auto& action) {
        try {
            action();
        } catch (const std::invalid_argument& error) {
            return std::string(error.what());
        }
        return std::string();
    };
    const std::string message = message_of([&] { require_executable(rule, layout); });
    EXPECT_NE(message.find(why), std::string::npos) << "expected '" << why << "', got '" << message << "'";
    EXPECT_EQ(message.find("[preprocess]"), 0u) << message;
    EXPECT_NE(message.find(std::to_string(size.height) + "x" + std::to_string(size.width)), std::string::npos) << message;

    // A batch with such an image is refused whole, before anything is written.
    const Preprocessor preprocessor(rule, PixelType::kFloat32);
    const Bytes pixels = random_pixels(1, size);
    Guarded out(output_bytes(good, PixelType::kFloat32), 0xA5), bad_out(0, 0xA5);
    const std::vector<ImageJob> jobs{{packed_view(pixels.data(), size), &good, out.data()},
                                     {packed_view(pixels.data(), size), &layout, bad_out.data()}};
    EXPECT_EQ(message_of([&] { preprocessor.run(jobs, 2, Isa::kScalar); }), message);
    EXPECT_TRUE(out.content() == Bytes(out.content().size(), 0xA5));
}

TEST(Refusals, SayWhatCannotBeCut) {
    for (const Resize resize : kAllResizes) {
        expect_refused(resize, tiled_ceil_grid(28, 112, 448), {70, 100}, "resizes more than once");
        Spec odd = pixel_spec({14, 5, 0, 0});
        odd.crop.crop_size = 71;
        expect_refused(resize, odd, {70, 100}, "no whole number of patches");
        Spec thin = pixel_spec({14, 5, 1, 1});
        thin.crop.fit = Fit::kLetterboxTrunc;
        expect_refused(resize, thin, {1, 3000}, "a side of 0 px");
        Spec ragged = stitched_best_resolution();
        ragged.grid.resolutions = {{340, 701}};
        ragged.crop.fit = Fit::kStretch;
        expect_refused(resize, ragged, {70, 100}, "canvas is no whole number of patches");
        ragged.grid.resolutions = {{350, 672}};  // patches fit, crops do not
        expect_refused(resize, ragged, {70, 100}, "do not lie on patches");
    }
    const Layout huge = layout_of(pixel_spec({14, 5, 1, 1}), {1, int64_t{1} << 29});
    EXPECT_THROW(require_executable(clip_rule(Resize::kBilinearRounded), huge), std::invalid_argument);
    for (const Spec& spec : letterbox_specs()) {
        for (const Resize resize : {Resize::kBilinearRounded, Resize::kBilinearRoundedChained}) {
            expect_refused(resize, spec, {70, 100}, "rounded pixels have no padding");
        }
        EXPECT_NO_THROW(require_executable(clip_rule(Resize::kBilinearAntialias), layout_of(spec, {70, 100})));
    }
}

// -- the order of memory ------------------------------------------------------------------------------------------

TEST(CropStreams, WriteEachValueOnceAndNoLineInTwoParts) {
    Random random(6);
    for (const int64_t element : {4, 2}) {
        for (int64_t misalignment = 0; misalignment < 64; misalignment += element) {
            const int64_t total = 3 * random(0, 2000);
            const auto values = exact<uint8_t>(total);
            fill_random(static_cast<uint64_t>(total), values.get(), total);
            Guarded out(total * element, 0, misalignment);
            std::vector<uintptr_t> ends;  // of the writes
            const auto write = [&](const CropStream::Run& run) {
                if (run.count == 0) return;
                EXPECT_EQ(run.channel, (run.to - out.data()) / element % 3);
                for (int64_t i = 0; i < run.count * element; ++i) {
                    EXPECT_EQ(run.to[i], 0);
                    run.to[i] = static_cast<uint8_t>(1 + run.from[i / element] / 2);
                }
                for (uint8_t* end : {run.to, run.to + run.count * element}) ends.push_back(reinterpret_cast<uintptr_t>(end));
            };
            CropStream stream;
            CropStream::Run later;
            for (int64_t at = 0; at < total;) {
                const int64_t count = std::min(3 * random(1, 300), total - at);
                const CropStream::Run run = stream.take(values.get() + at, count, out.data() + at * element, element, write);
                EXPECT_EQ(run.count % CropStream::kBlock, 0);
                write(later);
                later = run;
                at += count;
            }
            write(later);
            stream.flush(element, write);
            const Bytes content = out.content();
            for (int64_t i = 0; i < total * element; ++i) {
                ASSERT_EQ(content[static_cast<size_t>(i)], 1 + values[static_cast<size_t>(i / element)] / 2) << i << " of " << total;
            }
            EXPECT_TRUE(out.intact());
            for (const uintptr_t end : ends) {
                const auto from_begin = static_cast<int64_t>(end - reinterpret_cast<uintptr_t>(out.data()));
                EXPECT_TRUE(end % 64 == 0 || from_begin == 0 || from_begin == total * element) << from_begin << " of " << total;
            }
        }
    }
}

}  // namespace
}  // namespace maxcrops_test
