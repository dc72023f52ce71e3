// The fused path from an image to the crops' patches: executes a Layout, decides nothing.
//
// Each output element is written once. The canvas exists one band of a patch's height at a time; see
// Note [Bands] in preprocess.cpp for what a thread holds.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "image_view.h"
#include "layout.h"
#include "normalization.h"
#include "pixel_kernels.h"

namespace maxcrops {

class AxisTables;
class DevicePlan;
struct Tile;
struct DeviceImage;

enum class Resize {
    kBilinearRounded,         // float32 without antialias, rounded to 8 bits, as torch does it on two or more threads:
                              // to a height and width of 128 or less together, as on one
    kBilinearRoundedChained,  // the same as torch does it on one thread
    kBilinearAntialias,       // u / 255, float32 with antialias, clipped to 0..1, not rounded
};

struct PixelRule {
    Resize resize = Resize::kBilinearRounded;
    std::array<float, 3> mean{};
    std::array<float, 3> std{};
};

struct ImageJob {
    ImageView image;
    const Layout* layout = nullptr;
    void* out = nullptr;  // [layout->num_crops, patches a crop, 3 * patch_size^2]
};

// Throws std::invalid_argument, saying why, if the pixel path cannot execute the layout.
void require_executable(const PixelRule& rule, const Layout& layout);

// Whether the four products of a rounded pixel are summed in one chain: torch's CPU kernel for three channels is another
// one where the output is small, and on one thread.
bool is_chained(Resize resize, Size out);

class Preprocessor {
public:
    // Throws std::invalid_argument for a standard deviation that is not above 0.
    Preprocessor(const PixelRule& rule, PixelType type);

    const PixelRule& rule() const { return rule_; }
    PixelType type() const { return type_; }

    // Same bytes for any number of threads and any instruction set. May be called from many threads at once.
    void run(const std::vector<ImageJob>& jobs, int num_threads, Isa isa) const;

    // The same work for a device: see device_plan.h.
    DevicePlan device_plan(const std::vector<DeviceImage>& images, Tile tile) const;

private:
    PixelRule rule_;
    PixelType type_;
    ByteNormalization byte_normalization_;
    UnitNormalization unit_normalization_;
    std::shared_ptr<AxisTables> tables_;
};

}  // namespace maxcrops
