#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "bindings.h"
#include "pixels/buffer_pool.h"
#include "pixels/index_tensors.h"
#include "pixels/memory_floor.h"
#include "pixels/preprocess.h"

namespace nb = nanobind;

namespace maxcrops::bindings {
namespace {

using Image = nb::ndarray<const uint8_t, nb::shape<-1, -1, 3>, nb::device::cpu>;
using Output = nb::ndarray<nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ConstBytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Int32s = nb::ndarray<int32_t, nb::c_contig, nb::device::cpu>;
using Int64s = nb::ndarray<int64_t, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<float, nb::c_contig, nb::device::cpu>;

ImageView view_of(const Image& image) {
    return {image.data(),
            {static_cast<int64_t>(image.shape(0)), static_cast<int64_t>(image.shape(1))},
            image.stride(0),
            image.stride(1),
            image.stride(2)};
}

// Whether the memory between the first and the last byte of an image is also some of [begin, end).
bool overlaps(const ImageView& image, const uint8_t* begin, const uint8_t* end) {
    const int64_t steps[3] = {(image.size.height - 1) * image.row_stride, (image.size.width - 1) * image.col_stride,
                              2 * image.channel_stride};
    int64_t low = 0, high = 0;
    for (const int64_t step : steps) (step < 0 ? low : high) += step;
    const auto first = reinterpret_cast<uintptr_t>(image.data) + static_cast<uintptr_t>(low);
    const auto last = reinterpret_cast<uintptr_t>(image.data) + static_cast<uintptr_t>(high);
    return first < reinterpret_cast<uintptr_t>(end) && last >= reinterpret_cast<uintptr_t>(begin);
}

template <typename Array>
void require_size(const Array& out, int64_t size) {
    if (static_cast<int64_t>(out.size()) != size) {
        throw nb::value_error(("[preprocess] out must have " + std::to_string(size) + " elements, got " +
                               std::to_string(out.size())).c_str());
    }
}

void run(const Preprocessor& preprocessor, const std::vector<Image>& images, const std::vector<const Layout*>& layouts,
         const Output& out, int num_threads) {
    if (images.size() != layouts.size()) throw nb::value_error("[preprocess] there must be a layout for each image");
    std::vector<ImageJob> jobs;
    auto* to = static_cast<uint8_t*>(out.data());
    int64_t crops = 0;
    for (size_t i = 0; i < images.size(); ++i) {
        const Layout& layout = *layouts[i];
        const ImageView image = view_of(images[i]);
        if (overlaps(image, to, to + out.nbytes())) {
            throw nb::value_error(("[preprocess] out must not overlap image " + std::to_string(i) + " in memory").c_str());
        }
        if (!(image.size == layout.image)) throw nb::value_error("[preprocess] a layout is of another size than its image");
        const int64_t patches = layout.crop.crop_patches() * layout.crop.crop_patches();
        const int64_t values = 3 * layout.crop.patch_size * layout.crop.patch_size;
        if (static_cast<int64_t>(out.shape(1)) != patches || static_cast<int64_t>(out.shape(2)) != values) {
            throw nb::value_error("[preprocess] out must have shape [crops, patches, values]");
        }
        jobs.push_back({image, &layout, to + crops * patches * values * bytes_of(preprocessor.type())});
        crops += layout.num_crops;
    }
    if (static_cast<int64_t>(out.shape(0)) != crops || static_cast<int64_t>(out.itemsize()) != bytes_of(preprocessor.type())) {
        throw nb::value_error("[preprocess] out must hold every crop, and elements of the preprocessor's type");
    }
    const Isa isa = active_isa();  // reads the environment, which Python changes under the GIL
    nb::gil_scoped_release release;
    preprocessor.run(jobs, num_threads, isa);
}

void write_token_pooling(const Spec& spec, const std::vector<const Layout*>& layouts, const Int32s& pooling,
                         const Int64s& grids, const Int64s& num_crops) {
    const int64_t pooled = spec.crop.pooling_rows * spec.crop.pooling_cols;
    int64_t features = 0, patches = 0;
    for (const Layout* layout : layouts) {
        features += feature_grids(spec, *layout).count();
        patches += layout->vit_patches;
    }
    require_size(pooling, features * pooled);
    require_size(grids, 4 * static_cast<int64_t>(layouts.size()));
    require_size(num_crops, static_cast<int64_t>(layouts.size()));
    if (patches > INT32_MAX) throw nb::value_error("[preprocess] a batch must have fewer than 2^31 patches; make it smaller");
    int32_t* out = pooling.data();
    patches = 0;
    for (size_t i = 0; i < layouts.size(); ++i) {
        const Layout& layout = *layouts[i];
        const FeatureGrids of = feature_grids(spec, layout);
        token_pooling(spec, layout, static_cast<int32_t>(patches), out);
        out += of.count() * pooled;
        patches += layout.vit_patches;
        const int64_t row[4] = {of.global.rows, of.global.cols, of.local.rows, of.local.cols};
        std::copy(row, row + 4, grids.data() + 4 * i);
        num_crops.data()[i] = layout.num_crops;
    }
}

void write_positions(const Spec& spec, const std::vector<const Layout*>& layouts, const std::array<int32_t, 4>& ids,
                     int32_t unused, const Int32s& positions, const Floats& masks, const Int32s& tokens) {
    const CropRule& crop = spec.crop;
    const int64_t features = ceil_div(crop.crop_patches(), crop.pooling_rows) * ceil_div(crop.crop_patches(), crop.pooling_cols);
    const int64_t patches = crop.crop_patches() * crop.crop_patches();
    int64_t num_crops = 0, num_tokens = 0;
    for (const Layout* layout : layouts) {
        num_crops += layout->num_crops;
        num_tokens += layout->sequence_tokens;
    }
    require_size(positions, num_crops * features);
    require_size(masks, num_crops * patches);
    require_size(tokens, num_tokens);
    int64_t at_crop = 0, at_token = 0;
    for (const Layout* layout : layouts) {
        feature_positions(spec, *layout, static_cast<int32_t>(at_token), unused, positions.data() + at_crop * features);
        patch_masks(*layout, masks.data() + at_crop * patches);
        image_tokens(spec, *layout, ids.data(), tokens.data() + at_token);
        at_crop += layout->num_crops;
        at_token += layout->sequence_tokens;
    }
}

nb::object empty(BufferPool& pool, int64_t bytes) {
    auto* block = new std::shared_ptr<uint8_t>(pool.acquire(bytes));
    const nb::capsule owner(block, [](void* p) noexcept { delete static_cast<std::shared_ptr<uint8_t>*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>>(block->get(), {static_cast<size_t>(bytes)}, owner));
}

}  // namespace

void bind_preprocess(nb::module_& m) {
    nb::enum_<Resize>(m, "Resize")
        .value("BILINEAR_ROUNDED", Resize::kBilinearRounded)
        .value("BILINEAR_ROUNDED_ONE_THREAD", Resize::kBilinearRoundedChained)
        .value("BILINEAR_ANTIALIAS", Resize::kBilinearAntialias);
    nb::enum_<PixelType>(m, "PixelType")
        .value("FLOAT32", PixelType::kFloat32)
        .value("BFLOAT16", PixelType::kBFloat16)
        .value("FLOAT16", PixelType::kFloat16);
    nb::class_<PixelRule>(m, "PixelRule")
        .def(
            "__init__",
            [](PixelRule* self, Resize resize, const std::array<float, 3>& mean, const std::array<float, 3>& std) {
                new (self) PixelRule{resize, mean, std};
            },
            nb::arg("resize"), nb::arg("mean"), nb::arg("std"));
    nb::class_<Preprocessor>(m, "Preprocessor", "The fused path from images to the crops' patches; runs without the GIL.")
        .def(nb::init<const PixelRule&, PixelType>(), nb::arg("rule"), nb::arg("type"))
        .def(
            "layout",
            [](const Preprocessor& self, const Spec& spec, int64_t height, int64_t width, std::optional<int64_t> max_crops) {
                Layout layout = make_layout(spec, resolve_knob(spec, max_crops), {height, width});
                require_executable(self.rule(), layout);
                return layout;
            },
            nb::arg("spec"), nb::arg("height"), nb::arg("width"), nb::arg("max_crops").none() = nb::none(),
            "The layout of an image; raises ValueError, saying why, if the pixel path cannot execute it.")
        .def("run", &run, nb::arg("images"), nb::arg("layouts"), nb::arg("out"), nb::arg("num_threads"),
             nb::sig("def run(self, images: Sequence[NDArray[numpy.uint8]], layouts: Sequence[Layout], "
                     "out: NDArray[numpy.generic], num_threads: int) -> None"),
             "uint8 [height, width, 3] images of any strides into out [crops, patches, values], 2 or 4 bytes each.");

    nb::class_<BufferPool>(m, "BufferPool", "Memory for outputs, on huge pages where they can be had, kept for reuse.")
        .def(nb::new_([](int64_t capacity_bytes) { return std::make_shared<BufferPool>(capacity_bytes); }),
             nb::arg("capacity_bytes"))
        .def("empty", &empty, nb::arg("num_bytes"), nb::sig("def empty(self, num_bytes: int) -> numpy.typing.NDArray[numpy.uint8]"),
             "uint8 [num_bytes] of any content, 64-byte aligned; its memory comes back when nothing refers to it.")
        .def_prop_ro("held_bytes", &BufferPool::held_bytes, "Bytes that wait for reuse.");

    m.def(
        "feature_grids",
        [](const Spec& spec, const Layout& layout) {
            const FeatureGrids grids = feature_grids(spec, layout);
            return nb::make_tuple(grids.global.rows, grids.global.cols, grids.local.rows, grids.local.cols);
        },
        nb::arg("spec"), nb::arg("layout"),
        nb::sig("def feature_grids(spec: Spec, layout: Layout) -> tuple[int, int, int, int]"));
    m.def(
        "num_features",
        [](const Spec& spec, const std::vector<const Layout*>& layouts) {
            int64_t count = 0;
            for (const Layout* layout : layouts) count += feature_grids(spec, *layout).count();
            return count;
        },
        nb::arg("spec"), nb::arg("layouts"), "Features of the images of a batch together.");
    m.def("write_token_pooling", &write_token_pooling, nb::arg("spec"), nb::arg("layouts"), nb::arg("pooling"),
          nb::arg("grids"), nb::arg("num_crops"),
          "Into int32 [features, pooled patches], int64 [images, 4], int64 [images].");
    m.def("write_positions", &write_positions, nb::arg("spec"), nb::arg("layouts"), nb::arg("token_ids"),
          nb::arg("unused"), nb::arg("positions"), nb::arg("masks"), nb::arg("tokens"),
          "Into int32 [crops, features a crop], float32 [crops, patches], int32 [tokens].");
    m.def(
        "memory_floor",
        [](Bytes out, ConstBytes source, int num_threads) {
            nb::gil_scoped_release release;
            return memory_floor(out.data(), static_cast<int64_t>(out.size()), source.data(),
                                static_cast<int64_t>(source.size()), num_threads);
        },
        nb::arg("out"), nb::arg("source"), nb::arg("num_threads"),
        "Fills out past the caches and reads source once: what a preprocessor that needs every pixel must do.");
}

}  // namespace maxcrops::bindings
