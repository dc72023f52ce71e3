// Bytes become an image, its strides, a spec and a call; the crops must be the scalar kernels' on one thread, and
// nothing beside image and output may be touched. With libFuzzer where the compiler has it (MAXCROPS_LIBFUZZER),
// otherwise with random bytes and a main of its own that takes libFuzzer's -max_total_time=SECONDS.
#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#include "pixels/index_tensors.h"
#include "pixels/preprocess.h"

namespace {

using namespace maxcrops;

class Input {
public:
    Input(const uint8_t* data, size_t size) : data_(data), size_(size) {}

    // In low..high; low when the bytes are used up.
    int64_t operator()(int64_t low, int64_t high) {
        uint64_t value = 0;
        for (int i = 0; i < 2 && size_ > 0; ++i, ++data_, --size_) value = value << 8 | *data_;
        return low + static_cast<int64_t>(value % static_cast<uint64_t>(high - low + 1));
    }
    bool coin() { return (*this)(0, 1) == 1; }

private:
    const uint8_t* data_;
    size_t size_;
};

Spec spec_from(Input& input) {
    constexpr int64_t kPatchSizes[] = {1, 2, 5, 6, 7, 14, 16, 17, 28, 33};
    constexpr Fit kFits[] = {Fit::kStretch, Fit::kStretch, Fit::kLetterboxTrunc, Fit::kLetterboxCeil};
    Spec spec;
    spec.name = "fuzz";
    spec.crop.patch_size = kPatchSizes[input(0, 9)];
    spec.crop.crop_size = spec.crop.patch_size * input(1, 7) + (input(0, 15) == 0 ? 1 : 0);
    spec.crop.left_margin = input(0, 2);
    spec.crop.right_margin = input(0, 2);
    spec.crop.pooling_rows = input(1, 3);
    spec.crop.pooling_cols = input(1, 3);
    spec.crop.global_crop = static_cast<GlobalCrop>(input(0, 2));
    spec.crop.global_first = input.coin();
    spec.crop.fit = kFits[input(0, 3)];
    spec.crop.global_fit = kFits[input(0, 3)];
    spec.grid.policy = static_cast<GridPolicy>(input(0, 9));
    spec.grid.max_crops = input(1, 8);
    spec.grid.longest_edge = spec.grid.longest_edge_limit = 4 * spec.crop.crop_size;
    spec.grid.fixed_grid = {input(0, 3), input(0, 3)};
    spec.grid.min_slice_size = 32;
    spec.grid.min_ratio = 1.2;
    spec.grid.max_image_size = 4 * spec.crop.crop_size;
    spec.grid.covering_threshold = 0.9;
    spec.grid.resolutions = {{spec.crop.crop_size * input(1, 3), spec.crop.crop_size * input(1, 3)},
                             {spec.crop.crop_size + input(0, 40), spec.crop.crop_size + input(0, 40)}};
    spec.tokens.shape = input.coin() ? TokenShape::kStitched : TokenShape::kTiled;
    if (spec.tokens.shape == TokenShape::kStitched) {
        spec.tokens.pool_across_crops = input.coin();
        spec.tokens.col_tokens = input(0, 2);
        spec.tokens.low_res_col_tokens = input(0, 2);
        spec.tokens.map_extra = input(0, 7) == 0 ? 0 : 2;
        spec.tokens.global_extra = 2;
        spec.tokens.unpad = input(0, 7) == 0 ? Unpad::kByRatio : Unpad::kNever;
    }
    return spec;
}

int64_t side_from(Input& input) {
    switch (input(0, 3)) {
        case 0: return input(1, 4);
        case 1: return input(1, 1200);
        default: return input(1, 130);
    }
}

PixelRule rule_from(Input& input) {
    PixelRule rule{static_cast<Resize>(input(0, 2)), {0.5F, 0.5F, 0.5F}, {0.5F, 0.5F, 0.5F}};
    if (input.coin()) return rule;
    for (size_t c = 0; c < 3; ++c) {
        rule.mean[c] = static_cast<float>(input(0, 1000)) / 1000.0F;
        rule.std[c] = static_cast<float>(input(1, 1000)) / 1000.0F;
    }
    return rule;
}

// Memory from an image's first byte to its last one, so that the address sanitizer sees what is read beside it.
struct Image {
    std::unique_ptr<uint8_t[]> memory;
    ImageView view;
};

Image image_from(Input& input, Size size) {
    const int64_t w = size.width, h = size.height, pad = input(0, 1) * input(0, 300);
    const int64_t layouts[][3] = {{3 * w + pad, 3, 1}, {-3 * w - pad, 3, 1}, {4 * w + pad, 4, 1},  {w + pad, 1, (w + pad) * h},
                                  {w + pad, 1, 0},     {3 * w + pad, 3, -1}, {3 * w + pad, -3, 1}, {3, 3 * h + pad, 1},
                                  {0, 3, 1},           {pad, 3, 1}};
    const auto& [row, col, channel] = layouts[input(0, 9)];
    int64_t least = 0, most = 0;
    for (const int64_t reach : {row * (h - 1), col * (w - 1), 2 * channel}) (reach < 0 ? least : most) += reach;
    const auto bytes = static_cast<size_t>(most - least + 1);
    Image image{std::unique_ptr<uint8_t[]>(new uint8_t[bytes]), {}};
    std::minstd_rand noise(static_cast<uint32_t>(input(1, 65535)));
    const bool extremes = input.coin();
    for (size_t i = 0; i < bytes; ++i) {
        const auto value = static_cast<uint8_t>(noise() >> 8);
        image.memory[i] = extremes ? static_cast<uint8_t>(value < 128 ? 0 : 255) : value;
    }
    image.view = {image.memory.get() - least, size, row, col, channel};
    return image;
}

[[noreturn]] void fail(const std::string& what) {
    std::fprintf(stderr, "fuzz_preprocess: %s\n", what.c_str());
    std::abort();
}

// Output of several images, behind each other, in memory of exactly its size but for a chosen misalignment.
class Output {
public:
    Output(int64_t bytes, int64_t misalignment, uint8_t poison)
        : bytes_(static_cast<size_t>(bytes)),
          skipped_(static_cast<size_t>(misalignment)),
          poison_(poison),
          memory_(new uint8_t[bytes_ + skipped_]) {
        std::memset(memory_.get(), poison, bytes_ + skipped_);
    }

    uint8_t* data() { return memory_.get() + skipped_; }
    bool operator==(const Output& other) const {
        return std::memcmp(memory_.get() + skipped_, other.memory_.get() + other.skipped_, bytes_) == 0;
    }
    bool untouched(size_t bytes) const {
        return std::all_of(memory_.get(), memory_.get() + bytes, [&](uint8_t byte) { return byte == poison_; });
    }
    bool untouched() const { return untouched(bytes_ + skipped_); }
    bool untouched_before() const { return untouched(skipped_); }

private:
    size_t bytes_, skipped_;
    uint8_t poison_;
    std::unique_ptr<uint8_t[]> memory_;
};

std::string shown(const Layout& layout, const PixelRule& rule, const ImageView& view, Isa isa, int threads) {
    const auto text = [](int64_t value) { return std::to_string(value); };
    return text(view.size.height) + "x" + text(view.size.width) + " px, strides " + text(view.row_stride) + ", " +
           text(view.col_stride) + ", " + text(view.channel_stride) + "; grid " + text(layout.grid.rows) + "x" +
           text(layout.grid.cols) + ", crops of " + text(layout.crop.crop_size) + " px, patches of " +
           text(layout.crop.patch_size) + " px; resize " + text(static_cast<int64_t>(rule.resize)) + ", " +
           isa_name(isa) + ", " + text(threads) + " threads";
}

// Exact sizes again: what a binding would allocate.
void make_index_tensors(const Spec& spec, const Layout& layout) {
    const CropRule& crop = spec.crop;
    const int64_t patches = crop.crop_patches() * crop.crop_patches();
    if (patches == 0) return;
    std::vector<float> masks(static_cast<size_t>(layout.num_crops * patches));
    patch_masks(layout, masks.data());
    if (spec.tokens.shape != TokenShape::kStitched) return;
    const FeatureGrids grids = feature_grids(spec, layout);
    std::vector<int32_t> pooling(static_cast<size_t>(grids.count() * crop.pooling_rows * crop.pooling_cols));
    if (spec.tokens.pool_across_crops) token_pooling(spec, layout, 0, pooling.data());
    for (const int32_t patch : pooling) {
        if (patch < -1 || patch >= layout.num_crops * patches) fail("a pooled patch is out of range");
    }
    const int64_t features =
        ceil_div(crop.crop_patches(), crop.pooling_rows) * ceil_div(crop.crop_patches(), crop.pooling_cols);
    std::vector<int32_t> positions(static_cast<size_t>(layout.num_crops * features));
    std::vector<int32_t> tokens(static_cast<size_t>(layout.sequence_tokens));
    const int32_t ids[4] = {0, 1, 2, 3};
    try {
        image_tokens(spec, layout, ids, tokens.data());
        if (!spec.tokens.pool_across_crops) feature_positions(spec, layout, 0, -1, positions.data());
    } catch (const std::invalid_argument&) {  // tokens that the layout does not count
    }
    for (const int32_t position : positions) {
        if (position < -1 || position >= layout.sequence_tokens) fail("a feature's position is out of range");
    }
}

void check(Input input) {
    Spec spec = spec_from(input);
    try {
        validate(spec);
    } catch (const std::invalid_argument&) {
        spec.crop.left_margin = spec.crop.right_margin = 0;  // most often it was them
        spec.crop.pooling_rows = spec.crop.pooling_cols = 1;
        spec.crop.global_crop = GlobalCrop::kAlways;
        spec.grid.fixed_grid = {1, 2};
        try {
            validate(spec);
        } catch (const std::invalid_argument&) {
            return;
        }
    }
    const PixelRule rule = rule_from(input);
    const auto type = static_cast<PixelType>(input(0, 2));
    const int threads = static_cast<int>(input(0, 5));
    const std::vector<Isa> isas = available_isas();
    const Isa isa = isas[static_cast<size_t>(input(0, static_cast<int64_t>(isas.size()) - 1))];

    const auto num_jobs = static_cast<size_t>(input(0, 4) == 0 ? input(1, 9) : 1);
    std::vector<Image> images;
    std::vector<Layout> layouts;
    std::vector<int64_t> sizes;
    int64_t bytes = 0;
    bool executable = true;
    for (size_t i = 0; i < num_jobs; ++i) {
        const int64_t height = side_from(input), width = side_from(input);
        images.push_back(image_from(input, {height, width}));
        layouts.push_back(make_layout(spec, resolve_knob(spec, std::nullopt), {height, width}));
        make_index_tensors(spec, layouts.back());
        const int64_t patches = spec.crop.crop_patches(), patch_size = spec.crop.patch_size;
        sizes.push_back(layouts.back().num_crops * patches * patches * 3 * patch_size * patch_size * bytes_of(type));
        bytes += sizes.back();
        try {
            require_executable(rule, layouts.back());
        } catch (const std::invalid_argument&) {
            executable = false;
        }
    }
    const Preprocessor preprocessor(rule, type);
    const auto run = [&](Output& out, int num_threads, Isa with) {
        std::vector<ImageJob> jobs;
        uint8_t* to = out.data();
        for (size_t i = 0; i < num_jobs; ++i) {
            jobs.push_back({images[i].view, &layouts[i], to});
            to += sizes[i];
        }
        preprocessor.run(jobs, num_threads, with);
    };
    Output expected(bytes, 0, 0x00), out(bytes, input(0, 15) * bytes_of(type), 0xA5);
    if (!executable) {
        try {
            run(out, threads, isa);
        } catch (const std::invalid_argument&) {
            if (!out.untouched()) fail("a refused batch was begun");
            return;
        }
        fail("a layout that cannot be executed was executed");
    }
    run(expected, 1, Isa::kScalar);
    run(out, threads, isa);
    if (!(out == expected) || !out.untouched_before()) fail(shown(layouts[0], rule, images[0].view, isa, threads));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    check(Input(data, size));
    return 0;
}

#if !defined(MAXCROPS_LIBFUZZER)

// Every input is made from its number alone, so that "-seed=N -max_total_time=0" repeats one.
unsigned long long current_input = 0;

void show_input() { std::fprintf(stderr, "fuzz_preprocess: this was -seed=%llu\n", current_input); }

std::vector<uint8_t> input_of(uint64_t number) {
    std::mt19937_64 random(number);
    std::vector<uint8_t> bytes(160);
    for (uint8_t& byte : bytes) byte = static_cast<uint8_t>(random());
    return bytes;
}

int main(int argc, char** argv) {
    long seconds = 10;
    unsigned long long first = 0;
    for (int i = 1; i < argc; ++i) {
        if (std::strncmp(argv[i], "-max_total_time=", 16) == 0) {
            seconds = std::strtol(argv[i] + 16, nullptr, 10);
        } else if (std::strncmp(argv[i], "-seed=", 6) == 0) {
            first = std::strtoull(argv[i] + 6, nullptr, 10);
        } else {
            std::fprintf(stderr, "usage: %s [-max_total_time=SECONDS] [-seed=FIRST]\n", argv[0]);
            return 2;
        }
    }
    std::signal(SIGABRT, [](int) { show_input(); });  // the process ends behind it
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_set_death_callback(show_input);
#endif
    const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(seconds);
    current_input = first;
    do {
        const std::vector<uint8_t> input = input_of(current_input);
        LLVMFuzzerTestOneInput(input.data(), input.size());
        ++current_input;
    } while (std::chrono::steady_clock::now() < end);
    std::printf("%llu inputs, each as the scalar kernels have it\n", current_input - first);
    return 0;
}

#endif
