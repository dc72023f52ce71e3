#include "preprocess.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "aligned_vector.h"
#include "axis_tables.h"
#include "device_plan.h"
#include "row_reader.h"
#include "thread_pool.h"

// Note [Bands]
// A band is what lies in one row of patches: patch_size rows of the canvas. It is kept in patch order, so that what a
// crop takes from it, its window's patches, is one run of memory, and so is the place it goes to. Crops that overlap
// take from the same band.
//
// Rounded pixels are held as bytes and become floats in the run that writes them out. Antialiased ones are never
// rounded, and are held as floats; their source is read in blocks of kLanes rows, each of which feeds all views, and a
// ring of horizontally resized rows waits for the vertical pass.
//
// A thread so holds two bands a view (rounded: of 3 * patch_size * canvas width bytes; one is written while the next is
// made) and two rows, or one (antialiased: of floats) and a ring of rows as long as the longest window and kLanes, and copies of source rows that cannot be read where they lie.

namespace maxcrops {
namespace {

// Above this, outputs are written past the caches: they would be evicted before anybody reads them.
constexpr int64_t kStreamBytes = int64_t{4} << 20;

// Bytes of a row are counted in 32 bits.
constexpr int64_t kMaxPixelSide = (int64_t{1} << 29) - 1;

// Tasks that an image is cut in for each thread, to even out their ends.
constexpr int64_t kStripsAThread = 3;

// Pieces of a band that are made from top to bottom before the next: their tables and rows stay in the first cache.
constexpr int64_t kTilePieces = 16;

// Source pixels that are transposed at once in the antialiased pass: 24 KB of floats.
constexpr int64_t kChunkPixels = 128;

// Where a view's patches go.
struct CropTarget {
    int64_t patch_row = 0;  // of its first patch, on the canvas
    int64_t patch_col = 0;
    int64_t index = 0;  // of the crop in the output
};

struct ViewTargets {
    Size canvas;
    Box content;
    std::vector<CropTarget> crops;

    int64_t bands(int64_t patch_size) const { return canvas.height / patch_size; }
};

std::vector<ViewTargets> targets_of(const Layout& layout) {
    std::vector<ViewTargets> result;
    int64_t index = 0;
    for (const View& view : layout.views()) {
        ViewTargets targets{view.canvas, view.content, {}};
        for (const Box& crop : view.crops) {
            targets.crops.push_back({crop.top / layout.crop.patch_size, crop.left / layout.crop.patch_size, index++});
        }
        result.push_back(std::move(targets));
    }
    return result;
}

// What all tasks of one image share.
struct ImageWork {
    ImageJob job;
    std::vector<ViewTargets> views;
    int64_t patch_size = 0;
    int64_t crop_patches = 0;
    int64_t patch_values = 0;
    bool stream = false;

    // Where the patches that a crop takes from a band go.
    uint8_t* place(const CropTarget& crop, int64_t band, int64_t element_bytes) const {
        const int64_t patch = (crop.index * crop_patches + band - crop.patch_row) * crop_patches;
        return static_cast<uint8_t*>(job.out) + patch * patch_values * element_bytes;
    }
};

// Calls emit(crop, first value in the band, number of values) for each crop that takes from a band.
template <typename Emit>
void for_crops(const ImageWork& work, const ViewTargets& view, int64_t band, const Emit& emit) {
    for (const CropTarget& crop : view.crops) {
        if (band < crop.patch_row || band >= crop.patch_row + work.crop_patches) continue;
        emit(crop, crop.patch_col * work.patch_values, work.crop_patches * work.patch_values);
    }
}

void prefetch(const void* address) {
#if defined(__GNUC__)
    __builtin_prefetch(address, 0, 2);
#else
    static_cast<void>(address);
#endif
}

// -- rounded -------------------------------------------------------------------------------------------------------

// One view within a task: some of its bands.
struct RoundedView {
    const ViewTargets* view;
    std::shared_ptr<const RowPlan> cols;
    std::shared_ptr<const TwoTapAxis> rows;
    int64_t band_begin, band_end;
};

struct RoundedTask {
    const ImageWork* work;
    std::vector<RoundedView> views;
};

// Writes a band while the next one is made. Stores past the caches take as long as the arithmetic does, and run beside
// it if they come a few kilobytes at a time, which the processor's store buffer holds.
class BandWriter {
public:
    BandWriter(const ByteNormalization& normalization, PixelType type, const PixelKernels& kernels)
        : normalization_(normalization), type_(type), kernels_(kernels) {}

    // What crops take from a band, whose bytes must stay until it is finished.
    void start(const ImageWork& work, const ViewTargets& view, int64_t band, const uint8_t* bytes) {
        runs_.clear();
        run_ = 0;
        left_ = 0;
        stream_ = work.stream;
        for_crops(work, view, band, [&](const CropTarget& crop, int64_t first, int64_t count) {
            runs_.push_back({bytes + first, count, 0, work.place(crop, band, bytes_of(type_))});
            left_ += count;
        });
    }

    // Writes a share of what is left: one of so many.
    void step(int64_t shares) {
        if (left_ > 0) write(ceil_div(left_, shares));
    }

    void finish() {
        while (left_ > 0) write(left_);
    }

private:
    struct Run {
        const uint8_t* from;
        int64_t count, done;  // values
        uint8_t* to;
    };

    // At least `values`, as far as one run goes; it ends on a cache line and a whole number of pixels and vectors.
    void write(int64_t values) {
        constexpr int64_t kWhole = 192;
        Run& run = runs_[run_];
        const int64_t element = bytes_of(type_);
        const auto to_line = static_cast<int64_t>(-reinterpret_cast<uintptr_t>(run.to) & 63U) / element;
        const int64_t head = run.done == 0 ? to_line : 0;
        const int64_t count = std::min(head + ceil_div(values, kWhole) * kWhole, run.count - run.done);
        kernels_.normalize_bytes(normalization_, run.from + run.done, count, run.done % 3, type_, stream_,
                                 run.to + run.done * element);
        run.done += count;
        left_ -= count;
        if (run.done == run.count) ++run_;
    }

    const ByteNormalization& normalization_;
    const PixelType type_;
    const PixelKernels& kernels_;
    std::vector<Run> runs_;
    size_t run_ = 0;
    int64_t left_ = 0;  // values
    bool stream_ = false;
};

// A view's progress through its bands.
class RoundedBands {
public:
    void start(const ImageWork& work, const RoundedView& part, Resize resize, const PixelKernels& kernels) {
        work_ = &work;
        part_ = &part;
        kernels_ = &kernels;
        band_ = part.band_begin;
        const RowPlan& plan = *part.cols;
        const auto out_rows = static_cast<int64_t>(part.rows->first.size());
        chained_ = is_chained(resize, part.view->canvas);
        // Source rows that several output rows read are resized once and kept; otherwise both passes are one.
        keeps_rows_ = !chained_ && part.rows->in * 4 < out_rows * 5;
        // Rows that must be copied are copied once a band: it reads few when they are kept, and is one tile otherwise.
        reader_.reset(work.job.image, keeps_rows_ ? 2 * work.patch_size : 2, plan.reads_end);
        num_pieces_ = static_cast<int64_t>(plan.pieces.size());
        tile_pieces_ = keeps_rows_ || reader_.is_direct() ? kTilePieces : num_pieces_;
        for (AlignedVector<uint8_t>& bytes : bytes_) {
            bytes.resize(static_cast<size_t>(part.view->canvas.width * 3 * work.patch_size));
        }
        stage_.resize(static_cast<size_t>(kernels.stage_bytes(plan)));
        if (!keeps_rows_) return;
        for (KeptRow& row : kept_) {
            row.values.resize(static_cast<size_t>(kernels.row_floats(plan)));
            row.source.assign(static_cast<size_t>(ceil_div(num_pieces_, tile_pieces_)), -1);
        }
    }

    bool is_done() const { return band_ == part_->band_end; }

    // The last source row that the next band reads.
    int64_t last_source_row() const { return first_tap((band_ + 1) * work_->patch_size - 1) + 1; }

    // Makes the next band while the writer is at the one before, and hands it over.
    void make_band(BandWriter& writer) {
        steps_left_ = ceil_div(num_pieces_, tile_pieces_) * work_->patch_size;
        for (int64_t begin = 0; begin < num_pieces_; begin += tile_pieces_) {
            make_tile(begin, std::min(begin + tile_pieces_, num_pieces_), writer);
        }
        writer.finish();
        writer.start(*work_, *part_->view, band_, bytes_[band_ % 2].data());
        ++band_;
    }

private:
    // A horizontally resized row, and which source row each tile of it is of. Source row y is in kept_[y % 2].
    struct KeptRow {
        AlignedVector<float> values;
        std::vector<int64_t> source;
    };

    int64_t first_tap(int64_t row) const { return part_->rows->first[static_cast<size_t>(row)]; }

    void make_tile(int64_t begin, int64_t end, BandWriter& writer) {
        const RowPlan& plan = *part_->cols;
        const int64_t patch_size = work_->patch_size, last_row = work_->job.image.size.height - 1;
        const bool foresees = work_->job.image.has_packed_rows() && band_ + 1 < part_->band_end;
        int64_t asked_for = last_source_row();
        for (int64_t dy = 0; dy < patch_size; ++dy) {
            const int64_t y = band_ * patch_size + dy;
            if (foresees) {
                const int64_t next = first_tap(y + patch_size);
                ask_for_rows(std::max(asked_for + 1, next), std::min(next + 1, last_row), begin, end);
                asked_for = std::max(asked_for, next + 1);
            }
            const int64_t top = first_tap(y), bottom = std::min(top + 1, last_row);
            const RowBlend by{part_->rows->weight[static_cast<size_t>(y)], chained_};
            uint8_t* out = bytes_[band_ % 2].data() + dy * 3 * patch_size;
            if (keeps_rows_) {
                const float* upper = resized(top, begin, end);
                kernels_->blend_floats(plan, upper, resized(bottom, begin, end), by, begin, end, out);
            } else {
                const uint8_t* upper = reader_.row(top);
                kernels_->blend_bytes(plan, upper, reader_.row(bottom), by, begin, end, stage_.data(), out);
            }
            writer.step(steps_left_--);
        }
    }

    const float* resized(int64_t y, int64_t begin, int64_t end) {
        KeptRow& row = kept_[y % 2];
        if (std::exchange(row.source[static_cast<size_t>(begin / tile_pieces_)], y) != y) {
            kernels_->resize_row(*part_->cols, reader_.row(y), begin, end, stage_.data(), row.values.data());
        }
        return row.values.data();
    }

    // A tile reads a short piece of many rows, which the hardware does not foresee: while a band is made, the rows of
    // the next one are asked for.
    void ask_for_rows(int64_t first, int64_t last, int64_t begin, int64_t end) const {
        const RowPlan& plan = *part_->cols;
        const RowPlan::Piece& piece = plan.pieces[static_cast<size_t>(end - 1)];
        const int64_t from = plan.offset[static_cast<size_t>(plan.pieces[static_cast<size_t>(begin)].pixel)];
        const int64_t to = plan.offset[static_cast<size_t>(piece.pixel + piece.num_values / 3 - 1)];
        for (int64_t row = first; row <= last; ++row) {
            const uint8_t* bytes = work_->job.image.data + row * work_->job.image.row_stride;
            for (int64_t byte = from; byte <= to; byte += 64) prefetch(bytes + byte);
        }
    }

    const ImageWork* work_ = nullptr;
    const RoundedView* part_ = nullptr;
    const PixelKernels* kernels_ = nullptr;
    bool chained_ = false, keeps_rows_ = false;
    int64_t num_pieces_ = 0, tile_pieces_ = 0;
    int64_t band_ = 0, steps_left_ = 0;
    RowReader reader_;
    AlignedVector<uint8_t> bytes_[2];  // of this band, and of the one before, which may still be written
    AlignedVector<uint8_t> stage_;
    KeptRow kept_[2];
};

// Bands of all views in the order of the source rows they end with, so that an image is read from memory once.
void run_rounded(const RoundedTask& task, Resize resize, const ByteNormalization& normalization, PixelType type,
                 const PixelKernels& kernels) {
    thread_local std::vector<RoundedBands> views;
    views.resize(std::max(views.size(), task.views.size()));
    const auto end = views.begin() + static_cast<std::ptrdiff_t>(task.views.size());
    for (size_t v = 0; v < task.views.size(); ++v) views[v].start(*task.work, task.views[v], resize, kernels);
    const auto earlier = [](const RoundedBands& a, const RoundedBands& b) {
        return !a.is_done() && (b.is_done() || a.last_source_row() < b.last_source_row());
    };
    BandWriter writer(normalization, type, kernels);
    for (auto next = std::min_element(views.begin(), end, earlier); !next->is_done();
         next = std::min_element(views.begin(), end, earlier)) {
        next->make_band(writer);
    }
    writer.finish();
    if (task.work->stream) kernels.finish_streams();
}

// -- antialiased ---------------------------------------------------------------------------------------------------

// One view within a task: some of its bands, from top to bottom.
struct WindowedView {
    const ViewTargets* view;
    std::shared_ptr<const WindowAxis> cols, rows;
    int64_t band_begin, band_end;

    // Rows of the content that these bands hold, and the source rows that those read.
    int64_t row_begin(int64_t patch_size) const { return clamp_row(band_begin * patch_size); }
    int64_t row_end(int64_t patch_size) const { return clamp_row(band_end * patch_size); }
    int64_t clamp_row(int64_t canvas_row) const {
        return std::clamp<int64_t>(canvas_row - view->content.top, 0, view->content.height);
    }
};

struct WindowedTask {
    const ImageWork* work;
    std::vector<WindowedView> views;
};

// A view's progress: rows come in from the horizontal pass, bands go out.
class WindowedBands {
public:
    void start(const ImageWork& work, const WindowedView& part, const UnitNormalization& normalization) {
        work_ = &work;
        part_ = &part;
        const int64_t begin = part.row_begin(work.patch_size), end = part.row_end(work.patch_size);
        source_begin_ = begin < end ? part.rows->first[static_cast<size_t>(begin)] : 0;
        source_end_ = begin < end ? part.rows->end(end - 1) : 0;
        canvas_row_ = part.band_begin * work.patch_size;
        const Size canvas = part.view->canvas;
        row_values_ = static_cast<int64_t>(whole_lines<float>(static_cast<size_t>(3 * part.view->content.width + 48)));
        ring_rows_ = (part.rows->stride + 2 * kLanes - 1) / kLanes * kLanes;
        ring_.resize(static_cast<size_t>(ring_rows_ * row_values_));
        window_.resize(static_cast<size_t>(part.rows->stride));
        sums_.resize(static_cast<size_t>(kSumFloats));
        line_.resize(static_cast<size_t>(3 * canvas.width));
        padding_.resize(line_.size());
        for (size_t i = 0; i < padding_.size(); ++i) {
            padding_[i] = (0.0F - normalization.mean[i % 3]) / normalization.std[i % 3];
        }
        line_ = padding_;
        band_.resize(static_cast<size_t>(3 * canvas.width * work.patch_size));
    }

    int64_t source_begin() const { return source_begin_; }
    int64_t source_end() const { return source_end_; }
    bool reads(int64_t row) const { return source_begin_ < row + kLanes && row < source_end_; }

    // Where the horizontal pass keeps pixels, and where it puts source row y.
    float* sums() { return sums_.data(); }
    float* ring_row(int64_t y) { return ring_.data() + y % ring_rows_ * row_values_; }

    // Makes every canvas row whose source rows lie before `available`.
    void advance(int64_t available, const UnitNormalization& normalization, PixelType type,
                 const PixelKernels& kernels) {
        const Box& content = part_->view->content;
        const int64_t patch_size = work_->patch_size;
        for (; canvas_row_ < part_->band_end * patch_size; ++canvas_row_) {
            const int64_t row = canvas_row_ - content.top;
            if (row >= 0 && row < content.height) {
                if (part_->rows->end(row) > available) return;
                const auto index = static_cast<size_t>(row);
                const int64_t size = part_->rows->size[index];
                for (int64_t j = 0; j < size; ++j) window_[static_cast<size_t>(j)] = ring_row(part_->rows->first[index] + j);
                kernels.sum_rows(window_.data(), &part_->rows->weights[index * static_cast<size_t>(part_->rows->stride)],
                                 size, 3 * content.width, normalization, line_.data() + 3 * content.left);
                scatter(line_, canvas_row_ % patch_size);
            } else {
                scatter(padding_, canvas_row_ % patch_size);
            }
            if ((canvas_row_ + 1) % patch_size == 0) emit(canvas_row_ / patch_size, type, kernels);
        }
    }

private:
    void scatter(const AlignedVector<float>& line, int64_t dy) {
        const int64_t values = 3 * work_->patch_size;
        const auto bytes = static_cast<size_t>(values) * sizeof(float);
        const int64_t patches = part_->view->canvas.width / work_->patch_size;
        for (int64_t patch = 0; patch < patches; ++patch) {
            std::memcpy(&band_[static_cast<size_t>(patch * work_->patch_values + dy * values)],
                        &line[static_cast<size_t>(patch * values)], bytes);
        }
    }

    void emit(int64_t band, PixelType type, const PixelKernels& kernels) {
        for_crops(*work_, *part_->view, band, [&](const CropTarget& crop, int64_t first, int64_t count) {
            kernels.cast_floats(band_.data() + first, count, type, work_->stream, work_->place(crop, band, bytes_of(type)));
        });
    }

    const ImageWork* work_ = nullptr;
    const WindowedView* part_ = nullptr;
    int64_t source_begin_ = 0, source_end_ = 0;
    int64_t canvas_row_ = 0;
    int64_t row_values_ = 0, ring_rows_ = 0;
    AlignedVector<float> ring_, line_, padding_, band_, sums_;
    std::vector<const float*> window_;
};

struct WindowedScratch {
    RowReader reader;
    std::vector<WindowedBands> views;
    AlignedVector<float> columns;
};

// One block of kLanes source rows, horizontally resized for every view that reads it.
void resize_block(const WindowedTask& task, int64_t first_row, WindowedScratch& scratch, const PixelKernels& kernels) {
    const Size image = task.work->job.image.size;
    const uint8_t* rows[kLanes];
    for (int64_t lane = 0; lane < kLanes; ++lane) rows[lane] = scratch.reader.row(std::min(first_row + lane, image.height - 1));

    struct Part {
        const WindowAxis* cols;
        float* sums;
        float* rows[kLanes];
        int64_t next = 0, width = 0;
    };
    std::vector<Part> parts;
    for (size_t v = 0; v < task.views.size(); ++v) {
        WindowedBands& bands = scratch.views[v];
        if (!bands.reads(first_row)) continue;
        Part part{task.views[v].cols.get(), bands.sums(), {}, 0, task.views[v].view->content.width};
        for (int64_t lane = 0; lane < kLanes; ++lane) part.rows[lane] = bands.ring_row(first_row + lane);
        parts.push_back(part);
    }

    // Columns [begin, end) of the source are transposed; those that no window needs any more are dropped.
    AlignedVector<float>& columns = scratch.columns;
    int64_t begin = 0, end = 0;
    while (end < image.width) {
        const int64_t next = std::min(end + kChunkPixels, image.width);
        columns.resize(std::max(columns.size(), static_cast<size_t>((next - begin) * 3 * kLanes)));
        kernels.transpose_units(rows, 3 * end, 3 * next, columns.data() + (end - begin) * 3 * kLanes);
        end = next;
        // Sixteen rows are more streams than the hardware follows: ask for the next columns before summing these.
        for (const uint8_t* row : rows) {
            for (int64_t byte = 3 * end; byte < 3 * std::min(end + kChunkPixels, image.width); byte += 64) prefetch(row + byte);
        }
        int64_t needed = end;
        for (Part& part : parts) {
            int64_t ready = part.next;
            while (ready < part.width && part.cols->end(ready) <= end) ++ready;
            kernels.sum_columns(*part.cols, columns.data(), begin, part.next, ready, part.sums, part.rows);
            part.next = ready;
            if (part.next < part.width) needed = std::min<int64_t>(needed, part.cols->first[static_cast<size_t>(part.next)]);
        }
        std::copy(columns.begin() + (needed - begin) * 3 * kLanes, columns.begin() + (end - begin) * 3 * kLanes,
                  columns.begin());
        begin = needed;
    }
}

void run_windowed(const WindowedTask& task, const UnitNormalization& normalization, PixelType type,
                  const PixelKernels& kernels) {
    thread_local WindowedScratch scratch;
    const ImageWork& work = *task.work;
    scratch.reader.reset(work.job.image, kLanes, false);
    scratch.views.resize(task.views.size());
    int64_t source_begin = work.job.image.size.height, source_end = 0;
    for (size_t v = 0; v < task.views.size(); ++v) {
        WindowedBands& bands = scratch.views[v];
        bands.start(work, task.views[v], normalization);
        if (bands.source_begin() >= bands.source_end()) continue;
        source_begin = std::min(source_begin, bands.source_begin());
        source_end = std::max(source_end, bands.source_end());
    }
    for (int64_t row = source_begin / kLanes * kLanes; row < source_end; row += kLanes) {
        resize_block(task, row, scratch, kernels);
        for (WindowedBands& bands : scratch.views) bands.advance(row + kLanes, normalization, type, kernels);
    }
    // What is left is padding.
    for (WindowedBands& bands : scratch.views) bands.advance(work.job.image.size.height + kLanes, normalization, type, kernels);
    if (work.stream) kernels.finish_streams();
}

std::string text(Size size) { return std::to_string(size.height) + "x" + std::to_string(size.width); }

}  // namespace

bool is_chained(Resize resize, Size out) {
    constexpr int64_t kSmall = 128;
    return resize == Resize::kBilinearRoundedChained || out.height + out.width <= kSmall;
}

void require_executable(const PixelRule& rule, const Layout& layout) {
    const auto refuse = [&](const std::string& why) {
        throw std::invalid_argument("[preprocess] an image of " + text(layout.image) + " px cannot be cut: " + why);
    };
    const int64_t patch = layout.crop.patch_size, side = layout.crop.crop_size;
    if (std::max(layout.image.height, layout.image.width) > kMaxPixelSide) {
        refuse("pixels are made of sides up to " + std::to_string(kMaxPixelSide));
    }
    if (side % patch != 0) refuse("its crops of " + std::to_string(side) + " px are no whole number of patches");
    for (const View& view : layout.views()) {
        if (view.resizes.size() != 1 || view.from_local_canvas) refuse("its layout resizes more than once");
        if (view.source != Box{0, 0, layout.image.height, layout.image.width}) refuse("its crops are cut before a resize");
        if (view.content.height < 1 || view.content.width < 1) {
            refuse("kept in its ratio it has a side of 0 px on a canvas of " + text(view.canvas));
        }
        const bool fills = view.content.height == view.canvas.height && view.content.width == view.canvas.width;
        if (rule.resize != Resize::kBilinearAntialias && !fills) refuse("rounded pixels have no padding");
        if (view.canvas.height % patch != 0 || view.canvas.width % patch != 0) refuse("its canvas is no whole number of patches");
        for (const Box& crop : view.crops) {
            if (crop.height != side || crop.width != side || crop.top % patch != 0 || crop.left % patch != 0) {
                refuse("its crops do not lie on patches");
            }
        }
    }
}

Preprocessor::Preprocessor(const PixelRule& rule, PixelType type)
    : rule_(rule),
      type_(type),
      byte_normalization_(byte_normalization(rule.mean, rule.std)),
      unit_normalization_{rule.mean, rule.std},
      tables_(std::make_shared<AxisTables>()) {
    for (const float value : rule.std) {
        if (!(value > 0)) throw std::invalid_argument("[preprocess] image_std must be above 0, got " + std::to_string(value));
    }
}

DevicePlan Preprocessor::device_plan(const std::vector<DeviceImage>& images, Tile tile) const {
    return DevicePlan(rule_, images, tile, *tables_);
}

void Preprocessor::run(const std::vector<ImageJob>& jobs, int num_threads, Isa isa) const {
    const PixelKernels& kernels = pixel_kernels(isa);
    // With many images each is one task; with few, an image is cut in more tasks than threads to even them out.
    const auto num_jobs = static_cast<int64_t>(jobs.size());
    const int64_t parts = num_threads <= 1 || num_jobs >= 4 * num_threads ? 1 : num_threads;

    std::vector<ImageWork> works;
    works.reserve(jobs.size());
    std::vector<RoundedTask> rounded;
    std::vector<WindowedTask> windowed;
    for (const ImageJob& job : jobs) {
        require_executable(rule_, *job.layout);
        const CropRule& crop = job.layout->crop;
        ImageWork work{job, targets_of(*job.layout), crop.patch_size, crop.crop_patches(), 3 * crop.patch_size * crop.patch_size, false};
        const int64_t values = job.layout->num_crops * work.crop_patches * work.crop_patches * work.patch_values;
        work.stream = values * bytes_of(type_) >= kStreamBytes;
        works.push_back(std::move(work));
        const ImageWork& kept = works.back();
        const Size image = job.image.size;
        if (rule_.resize == Resize::kBilinearAntialias) {
            for (int64_t part = 0; part < parts; ++part) {
                WindowedTask task{&kept, {}};
                for (const ViewTargets& view : kept.views) {
                    const int64_t bands = view.bands(kept.patch_size);
                    task.views.push_back({&view, tables_->window(image.width, view.content.width),
                                          tables_->window(image.height, view.content.height), bands * part / parts,
                                          bands * (part + 1) / parts});
                }
                windowed.push_back(std::move(task));
            }
        } else {
            const int64_t strips = parts == 1 ? 1 : kStripsAThread * parts;
            for (int64_t strip = 0; strip < strips; ++strip) {
                RoundedTask task{&kept, {}};
                for (const ViewTargets& view : kept.views) {
                    const int64_t bands = view.bands(kept.patch_size);
                    task.views.push_back({&view, tables_->plan(image.width, view.canvas.width, kept.patch_size),
                                          tables_->axis(image.height, view.canvas.height), bands * strip / strips,
                                          bands * (strip + 1) / strips});
                }
                rounded.push_back(std::move(task));
            }
        }
    }
    parallel_for(static_cast<int64_t>(rounded.size()), num_threads, [&](int64_t i) {
        run_rounded(rounded[static_cast<size_t>(i)], rule_.resize, byte_normalization_, type_, kernels);
    });
    parallel_for(static_cast<int64_t>(windowed.size()), num_threads, [&](int64_t i) {
        run_windowed(windowed[static_cast<size_t>(i)], unit_normalization_, type_, kernels);
    });
}

}  // namespace maxcrops
