// Memory, images and small specs for the tests of the pixel path.
#pragma once

#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "cpu_features.h"
#include "fixtures.h"
#include "pixels/pixel_kernels.h"
#include "pixels/preprocess.h"

namespace maxcrops_test {

using Bytes = std::vector<uint8_t>;

constexpr PixelType kAllTypes[] = {PixelType::kFloat32, PixelType::kBFloat16, PixelType::kFloat16};
constexpr Resize kAllResizes[] = {Resize::kBilinearRounded, Resize::kBilinearRoundedChained, Resize::kBilinearAntialias};

inline std::string isa_param(const testing::TestParamInfo<Isa>& info) { return isa_name(info.param); }

// Heap memory of exactly this size: the address sanitizer sees what is read or written behind it.
template <typename T>
std::unique_ptr<T[]> exact(int64_t count) {
    return std::unique_ptr<T[]>(new T[static_cast<size_t>(count)]);
}

// Poisoned memory at a chosen distance from a cache line, between guards that show writes beside it in any build.
class Guarded {
public:
    Guarded(int64_t bytes, uint8_t poison, int64_t misalignment = 0)
        : bytes_(static_cast<size_t>(bytes)), poison_(poison), memory_(bytes_ + 2 * kGuard + 128, poison) {
        const auto address = reinterpret_cast<uintptr_t>(memory_.data() + kGuard);
        begin_ = kGuard + (64 - address % 64) % 64 + static_cast<size_t>(misalignment);
    }

    uint8_t* data() { return memory_.data() + begin_; }
    Bytes content() const {
        const auto begin = memory_.begin() + static_cast<std::ptrdiff_t>(begin_);
        return Bytes(begin, begin + static_cast<std::ptrdiff_t>(bytes_));
    }
    bool intact() const {
        for (size_t i = 0; i < memory_.size(); ++i) {
            if ((i < begin_ || i >= begin_ + bytes_) && memory_[i] != poison_) return false;
        }
        return true;
    }

private:
    static constexpr size_t kGuard = 192;

    size_t bytes_;
    uint8_t poison_;
    Bytes memory_;
    size_t begin_ = 0;
};

// Noise, with runs of the extremes in it: what rounds, and what saturates.
inline void fill_random(uint64_t seed, uint8_t* to, int64_t count) {
    Random random(seed);
    for (int64_t i = 0; i < count;) {
        const int64_t kind = random(0, 7), run = std::min<int64_t>(count - i, random(1, 40));
        for (int64_t j = 0; j < run; ++j) {
            to[i + j] = static_cast<uint8_t>(kind == 0 ? 0 : kind == 1 ? 255 : random(0, 255));
        }
        i += run;
    }
}

inline Bytes random_pixels(uint64_t seed, Size size) {
    Bytes pixels(static_cast<size_t>(3 * size.height * size.width));
    fill_random(seed, pixels.data(), static_cast<int64_t>(pixels.size()));
    return pixels;
}

inline ImageView packed_view(const uint8_t* pixels, Size size) { return {pixels, size, 3 * size.width, 3, 1}; }

inline PixelRule clip_rule(Resize resize) {
    return {resize, {0.48145466F, 0.4578275F, 0.40821073F}, {0.26862954F, 0.26130258F, 0.27577711F}};
}

struct PatchSizes {  // of a crop
    int64_t patch, patches, left_margin, right_margin;
};

inline Spec pixel_spec(PatchSizes sizes, int64_t max_crops = 6) {
    Spec spec;
    spec.name = "pixels";
    spec.grid.policy = GridPolicy::kScaleFit;
    spec.grid.max_crops = max_crops;
    spec.crop.patch_size = sizes.patch;
    spec.crop.crop_size = sizes.patch * sizes.patches;
    spec.crop.left_margin = sizes.left_margin;
    spec.crop.right_margin = sizes.right_margin;
    spec.crop.global_crop = GlobalCrop::kAlways;
    return spec;
}

// Overlapped and not; patches of whole vectors, of two pieces, and too narrow for vectors.
inline std::vector<Spec> pixel_specs() {
    std::vector<Spec> specs{pixel_spec({14, 5, 1, 1}), pixel_spec({16, 3, 0, 0}), pixel_spec({28, 3, 1, 0}),
                            pixel_spec({5, 7, 1, 2}), pixel_spec({1, 17, 3, 2})};
    specs[1].crop.global_first = false;
    specs[3].crop.global_crop = GlobalCrop::kNever;
    return specs;
}

inline int64_t output_bytes(const Layout& layout, PixelType type) {
    const int64_t patches = layout.crop.crop_patches();
    return layout.num_crops * patches * patches * 3 * layout.crop.patch_size * layout.crop.patch_size * bytes_of(type);
}

// The crops of one image. The memory around them must stay as it was.
inline Bytes run_one(const Preprocessor& preprocessor, const ImageView& image, const Layout& layout, int threads,
                     Isa isa, uint8_t poison = 0xA5) {
    Guarded out(output_bytes(layout, preprocessor.type()), poison);
    preprocessor.run({{image, &layout, out.data()}}, threads, isa);
    EXPECT_TRUE(out.intact());
    return out.content();
}

// A kernel's output: what is left unwritten differs between two poisons, and what is wrong from the scalar bytes.
template <typename Write>
void expect_scalar_bytes(int64_t bytes, int64_t misalignment, const Write& write, const PixelKernels& kernels) {
    Guarded expected(bytes, 0x00), one(bytes, 0xA5, misalignment), other(bytes, 0x5A, misalignment);
    write(kScalarPixelKernels, expected.data());
    write(kernels, one.data());
    write(kernels, other.data());
    kernels.finish_streams();
    ASSERT_EQ(one.content(), expected.content());
    ASSERT_EQ(other.content(), expected.content());
    ASSERT_TRUE(one.intact() && other.intact());
}

class PixelKernelsTest : public testing::TestWithParam<Isa> {
protected:
    const PixelKernels& kernels() const { return pixel_kernels(GetParam()); }
};

}  // namespace maxcrops_test
