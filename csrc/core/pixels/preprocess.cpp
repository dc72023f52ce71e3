#include "preprocess.h"

#include <algorithm>
#include <stdexcept>
#include <string>
#include <utility>

#include "aligned_vector.h"
#include "axis_tables.h"
#include "crop_stream.h"
#include "device_plan.h"
#include "row_reader.h"
#include "rows_ahead.h"
#include "thread_pool.h"

// Note [Bands]
// A band is what lies in one row of patches: patch_size rows of the canvas. What a crop takes from it, its window's
// patches, goes to one run of memory. Crops that overlap take the same patches.
//
// Rounded pixels are made patch by patch, so that a column of source pixels goes through all rows of a patch in
// registers. A few patches at a time are held as bytes, and become floats in the run that writes them out.
//
// Antialiased pixels are never rounded, and a band of them is held as floats, in patch order; their source is read in
// blocks of kLanes rows, each of which feeds all views, and a ring of horizontally resized rows waits for the vertical
// pass.

namespace maxcrops {
namespace {

// Above this, outputs are written past the caches: they would be evicted before anybody reads them.
constexpr int64_t kStreamBytes = int64_t{4} << 20;

// Bytes of a row are counted in 32 bits.
constexpr int64_t kMaxPixelSide = (int64_t{1} << 29) - 1;

// Each thread's share of an image is cut in so many parts, a task each: large ones first, as a task costs time to begin,
// and small ones behind them, so that no thread waits long for another's last.
constexpr int64_t kStripParts[] = {4, 2, 1, 1};
constexpr int64_t kParts = kStripParts[0] + kStripParts[1] + kStripParts[2] + kStripParts[3];

// Patches that are written together.
constexpr int64_t kTilePatches = 32;

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

// Calls take(crop) for each crop that takes from a band.
template <typename Take>
void for_crops(const ImageWork& work, const ViewTargets& view, int64_t band, const Take& take) {
    for (const CropTarget& crop : view.crops) {
        if (band >= crop.patch_row && band < crop.patch_row + work.crop_patches) take(crop);
    }
}

// -- rounded -------------------------------------------------------------------------------------------------------

// One view within a task: some of its bands.
struct RoundedView {
    const ImageWork* work;
    const ViewTargets* view;
    std::shared_ptr<const RowPlan> cols;
    std::shared_ptr<const TwoTapAxis> rows;
    int64_t band_begin, band_end;
    const RoundedView* next = nullptr;  // what the same thread goes on with, probably
    bool is_foreseen = false;           // whether it is the next of another one

    bool is_empty() const { return band_begin == band_end; }
};

using RoundedTask = std::vector<RoundedView>;  // of one image

// Threads take tasks in turn, so that a thread's next one is as far behind as there are threads.
void foresee(std::vector<RoundedTask>& tasks, size_t num_threads) {
    for (size_t i = 0; i + num_threads < tasks.size(); ++i) {
        RoundedTask &task = tasks[i], &next = tasks[i + num_threads];
        for (size_t v = 0; v < std::min(task.size(), next.size()); ++v) {
            if (task[v].is_empty() || next[v].is_empty()) continue;
            task[v].next = &next[v];
            next[v].is_foreseen = true;
        }
    }
}

// Writes a tile, some patches of a band, while the next one is made. Stores past the caches take as long as the
// arithmetic does, and run beside it if they come a few kilobytes at a time, which the processor's store buffer holds,
// and if what is stored beside them lies in the first cache.
class TileWriter {
public:
    TileWriter(const ByteNormalization& normalization, PixelType type, const PixelKernels& kernels)
        : normalization_(normalization), type_(type), kernels_(kernels) {}

    void start(const ImageWork& work) {
        work_ = &work;
        for (AlignedVector<uint8_t>& tile : tiles_) tile.resize(static_cast<size_t>(kTilePatches * work.patch_values));
        streams_.resize(static_cast<size_t>(work.job.layout->num_crops));
    }

    // The tiles that follow are of this band.
    void start_band(const ViewTargets& view, int64_t band) {
        band_ = band;
        crops_.clear();
        for_crops(*work_, view, band, [&](const CropTarget& crop) { crops_.push_back(crop); });
    }

    // Where patch `i` of the next tile is to be made.
    uint8_t* place(int64_t i) { return tiles_[next_].data() + i * work_->patch_values; }

    // Writes an equal share of the tile before; `steps` are left, this one included. A share is divided once a tile, as
    // a division takes as long as a tenth of a patch.
    void step(int64_t steps) {
        if (left_ == 0) return;
        if (share_ == 0) share_ = ceil_div(left_, steps);
        due_ += share_;
        if (due_ > 0) due_ -= write_some(due_);
    }

    // The next tile is made: patches [begin, end) of the band. The one before is finished first.
    void turn(int64_t begin, int64_t end) {
        finish_tile();
        runs_.clear();
        run_ = 0;
        share_ = 0;
        due_ = 0;
        const auto now = [this](const CropStream::Run& run) { write(run, run.count); };
        for (const CropTarget& crop : crops_) {
            const int64_t first = std::max(begin, crop.patch_col);
            const int64_t count = (std::min(end, crop.patch_col + work_->crop_patches) - first) * work_->patch_values;
            if (count <= 0) continue;
            const int64_t element = bytes_of(type_);
            uint8_t* to = work_->place(crop, band_, element) + (first - crop.patch_col) * work_->patch_values * element;
            const CropStream::Run run = streams_[static_cast<size_t>(crop.index)].take(place(first - begin), count, to, element, now);
            if (run.count == 0) continue;
            runs_.push_back(run);
            left_ += run.count;
        }
        next_ = 1 - next_;
    }

    void finish() {
        finish_tile();
        for (CropStream& stream : streams_) {
            stream.flush(bytes_of(type_), [this](const CropStream::Run& run) { write(run, run.count); });
        }
    }

private:
    void write(const CropStream::Run& run, int64_t count) {
        kernels_.normalize_bytes(normalization_, run.from, count, run.channel, type_, work_->stream, run.to);
    }

    // At least `values`, as far as one run goes, in whole blocks. Returns how many.
    int64_t write_some(int64_t values) {
        CropStream::Run& run = runs_[run_];
        const int64_t count = std::min(ceil_div(values, CropStream::kBlock) * CropStream::kBlock, run.count);
        write(run, count);
        run.from += count;
        run.to += count * bytes_of(type_);
        run.count -= count;
        left_ -= count;
        if (run.count == 0) ++run_;
        return count;
    }

    void finish_tile() {
        while (left_ > 0) write_some(left_);
    }

    const ByteNormalization& normalization_;
    const PixelType type_;
    const PixelKernels& kernels_;
    const ImageWork* work_ = nullptr;
    AlignedVector<uint8_t> tiles_[2];
    size_t next_ = 0;
    int64_t band_ = 0;
    std::vector<CropTarget> crops_;  // that take from the band
    std::vector<CropStream> streams_;
    std::vector<CropStream::Run> runs_;
    size_t run_ = 0;
    int64_t left_ = 0;   // values
    int64_t share_ = 0;  // of them in each step
    int64_t due_ = 0;    // of the shares so far, below 0 where more was written
};

// A view's progress through its bands.
class RoundedBands {
public:
    void start(const RoundedView& part, Resize resize, const PixelKernels& kernels) {
        const ImageWork& work = *part.work;
        part_ = &part;
        kernels_ = &kernels;
        band_ = part.band_begin;
        chained_ = is_chained(resize, part.view->canvas);
        reader_.reset(work.job.image, 2 * work.patch_size);
        rows_.resize(static_cast<size_t>(work.patch_size));
        if (part.is_foreseen || part.is_empty()) return;
        find_rows_ahead(part, band_);
        ask(ahead_, num_lines(ahead_));
    }

    bool is_done() const { return band_ == part_->band_end; }

    // The last source row that the next band reads.
    int64_t last_source_row() const { return first_tap((band_ + 1) * part_->work->patch_size - 1) + 1; }

    // Makes the next band, a patch at a time, while the writer is at the tile before.
    void make_band(TileWriter& writer) {
        const int64_t patches = part_->view->canvas.width / part_->work->patch_size;
        find_rows();
        find_next_rows();
        ahead_.lines_a_patch = ceil_div(num_lines(ahead_), patches);
        writer.start_band(*part_->view, band_);
        for (int64_t begin = 0; begin < patches; begin += kTilePatches) {
            const int64_t end = std::min(begin + kTilePatches, patches);
            for (int64_t patch = begin; patch < end; ++patch) {
                kernels_->blend_patch(*part_->cols, patch, rows_.data(), chained_, ahead_, writer.place(patch - begin));
                writer.step(end - patch);
            }
            writer.turn(begin, end);
        }
        ++band_;
    }

private:
    int64_t first_tap(int64_t row) const { return part_->rows->first[static_cast<size_t>(row)]; }

    // The source rows of each row of the band.
    void find_rows() {
        const int64_t last_row = part_->work->job.image.size.height - 1;
        int64_t top = -1, bottom = -1;
        RowPair pair;
        for (int64_t dy = 0; dy < part_->work->patch_size; ++dy) {
            const int64_t y = band_ * part_->work->patch_size + dy;
            const int64_t next_top = first_tap(y), next_bottom = std::min(next_top + 1, last_row);
            if (next_top != top) pair.top = next_top == bottom ? pair.bottom : reader_.row(next_top, 2 * dy);
            if (next_bottom != bottom) pair.bottom = next_bottom == next_top ? pair.top : reader_.row(next_bottom, 2 * dy + 1);
            pair.bottom_weight = part_->rows->weight[static_cast<size_t>(y)];
            pair.top_weight = 1.0F - pair.bottom_weight;
            rows_[static_cast<size_t>(dy)] = pair;
            top = next_top;
            bottom = next_bottom;
        }
    }

    // A patch reads a short piece of many rows, which the hardware does not foresee: while a band is made, the rows that
    // the next one reads first are asked for, from end to end.
    void find_next_rows() {
        ahead_ = {};
        if (band_ + 1 < part_->band_end) {
            find_rows_ahead(*part_, band_ + 1);
        } else if (part_->next != nullptr) {
            find_rows_ahead(*part_->next, part_->next->band_begin);
        }
    }

    // Those of a band that the one before has not read.
    void find_rows_ahead(const RoundedView& part, int64_t band) {
        const ImageView& image = part.work->job.image;
        if (!image.has_packed_rows()) return;
        const int64_t patch_size = part.work->patch_size, last_row = image.size.height - 1;
        const auto first_tap = [&](int64_t y) { return int64_t{part.rows->first[static_cast<size_t>(y)]}; };
        ahead_rows_.clear();
        int64_t row = band == part.band_begin ? 0 : first_tap(band * patch_size - 1) + 2;
        for (int64_t y = band * patch_size; y < (band + 1) * patch_size; ++y) {
            row = std::max(row, first_tap(y));
            for (; row <= std::min(first_tap(y) + 1, last_row); ++row) ahead_rows_.push_back(image.data + row * image.row_stride);
        }
        ahead_ = {ahead_rows_.data(), ahead_rows_.data() + ahead_rows_.size(), 3 * image.size.width};
    }

    const RoundedView* part_ = nullptr;
    const PixelKernels* kernels_ = nullptr;
    bool chained_ = false;
    int64_t band_ = 0;
    RowReader reader_;
    std::vector<RowPair> rows_;
    std::vector<const uint8_t*> ahead_rows_;
    RowsAhead ahead_;  // a place in them
};

// Bands of all views in the order of the source rows they end with, so that an image is read from memory once.
void run_rounded(const RoundedTask& task, Resize resize, const ByteNormalization& normalization, PixelType type,
                 const PixelKernels& kernels) {
    const ImageWork& work = *task.front().work;
    thread_local std::vector<RoundedBands> views;
    views.resize(std::max(views.size(), task.size()));
    const auto end = views.begin() + static_cast<std::ptrdiff_t>(task.size());
    for (size_t v = 0; v < task.size(); ++v) views[v].start(task[v], resize, kernels);
    const auto earlier = [](const RoundedBands& a, const RoundedBands& b) {
        return !a.is_done() && (b.is_done() || a.last_source_row() < b.last_source_row());
    };
    TileWriter writer(normalization, type, kernels);
    writer.start(work);
    for (auto next = std::min_element(views.begin(), end, earlier); !next->is_done();
         next = std::min_element(views.begin(), end, earlier)) {
        next->make_band(writer);
    }
    writer.finish();
    if (work.stream) kernels.finish_streams();
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
        ring_rows_ = part.rows->stride - 1 + kLanes;  // what a window that is not complete has, and a block
        ring_.resize(static_cast<size_t>(ring_rows_ * row_values_));
        window_.resize(static_cast<size_t>(part.rows->stride));
        sums_.resize(static_cast<size_t>(kSumFloats));
        padding_.resize(static_cast<size_t>(3 * canvas.width));
        for (size_t i = 0; i < padding_.size(); ++i) {
            padding_[i] = (0.0F - normalization.means[i % 3]) / normalization.stds[i % 3];
        }
        band_.resize(static_cast<size_t>(3 * canvas.width * work.patch_size));
        for (int64_t dy = 0; dy < work.patch_size; ++dy) pad(dy);
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
                                 size, 3 * content.width, normalization, 3 * content.left, patch_size,
                                 band_.data() + canvas_row_ % patch_size * 3 * patch_size);
            } else {
                pad(canvas_row_ % patch_size);
            }
            if ((canvas_row_ + 1) % patch_size == 0) emit(canvas_row_ / patch_size, type, kernels);
        }
    }

private:
    // A row of the band without content. Around content it stays from one band to the next.
    void pad(int64_t dy) {
        const int64_t values = 3 * work_->patch_size;
        const auto bytes = static_cast<size_t>(values) * sizeof(float);
        const int64_t patches = part_->view->canvas.width / work_->patch_size;
        for (int64_t patch = 0; patch < patches; ++patch) {
            std::memcpy(&band_[static_cast<size_t>(patch * work_->patch_values + dy * values)],
                        &padding_[static_cast<size_t>(patch * values)], bytes);
        }
    }

    void emit(int64_t band, PixelType type, const PixelKernels& kernels) {
        for_crops(*work_, *part_->view, band, [&](const CropTarget& crop) {
            kernels.cast_floats(band_.data() + crop.patch_col * work_->patch_values, work_->crop_patches * work_->patch_values,
                                type, work_->stream, work_->place(crop, band, bytes_of(type)));
        });
    }

    const ImageWork* work_ = nullptr;
    const WindowedView* part_ = nullptr;
    int64_t source_begin_ = 0, source_end_ = 0;
    int64_t canvas_row_ = 0;
    int64_t row_values_ = 0, ring_rows_ = 0;
    AlignedVector<float> ring_, padding_, band_, sums_;
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
    for (int64_t lane = 0; lane < kLanes; ++lane) {
        rows[lane] = scratch.reader.row(std::min(first_row + lane, image.height - 1), lane);
    }

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
            for (int64_t byte = 3 * end; byte < 3 * std::min(end + kChunkPixels, image.width); byte += kLine) prefetch(row + byte);
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
    scratch.reader.reset(work.job.image, kLanes);
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
      unit_normalization_(unit_normalization(rule.mean, rule.std)),
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
            const auto cut = [&](int64_t begin, int64_t end, int64_t of) {
                RoundedTask task;
                for (const ViewTargets& view : kept.views) {
                    const int64_t bands = view.bands(kept.patch_size);
                    task.push_back({&kept, &view, tables_->plan(image.width, view.canvas.width, kept.patch_size),
                                    tables_->axis(image.height, view.canvas.height), bands * begin / of, bands * end / of});
                }
                rounded.push_back(std::move(task));
            };
            if (parts == 1) {
                cut(0, 1, 1);
                continue;
            }
            int64_t begin = 0;
            for (const int64_t size : kStripParts) {
                for (int64_t part = 0; part < parts; ++part, begin += size) cut(begin, begin + size, kParts * parts);
            }
        }
    }
    foresee(rounded, static_cast<size_t>(std::max(num_threads, 1)));
    parallel_for(static_cast<int64_t>(rounded.size()), num_threads, [&](int64_t i) {
        run_rounded(rounded[static_cast<size_t>(i)], rule_.resize, byte_normalization_, type_, kernels);
    });
    parallel_for(static_cast<int64_t>(windowed.size()), num_threads, [&](int64_t i) {
        run_windowed(windowed[static_cast<size_t>(i)], unit_normalization_, type_, kernels);
    });
}

}  // namespace maxcrops
