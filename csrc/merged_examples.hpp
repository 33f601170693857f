// Records of `tf.train.Example` whose features are alike, as one whose lists are those of all records in turn.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "example.hpp"

namespace rl {

// A feature of all records. Spans are of the records.
struct MergedFeature {
  std::string_view name;
  Kind kind = Kind::none;
  std::vector<Span> values;          // of each record, as `parse` tells them
  std::vector<std::int64_t> counts;  // how many these are
  std::size_t total = 0;             // of all counts
  bool is_small = true;              // every integer is one byte, below 128
};

class MergedExamples {
public:
  // Takes in the next record, which must stay where it is; false if it is laid out in another way than `parse` knows,
  // has a feature twice, or differs from the first in names, kinds, or which features are empty: then it is left out.
  bool add(Span record) {
    std::size_t number = 0;  // of features in this record
    const bool fits = parse(record, [&](Span name, Kind kind, Span values) {
      MergedFeature *feature = find({reinterpret_cast<const char *>(name.data), name.size()}, number++, kind);
      return feature != nullptr && feature->counts.size() == size_ && append(*feature, values);
    });
    if (fits && number == features_.size()) {
      ++size_;
      return true;
    }
    if (size_ == 0) {
      features_.clear();
      places_.clear();
    }
    for (MergedFeature &feature : features_) {
      if (feature.counts.size() == size_) continue;
      feature.total -= static_cast<std::size_t>(feature.counts.back());
      feature.values.pop_back();
      feature.counts.pop_back();
    }
    return false;
  }

  std::size_t size() const noexcept { return size_; }
  const std::vector<MergedFeature> &features() const noexcept { return features_; }

private:
  // The feature of that name, None if it is another record's or of another kind. The first record makes them.
  MergedFeature *find(std::string_view name, std::size_t position, Kind kind) {
    if (position < features_.size() && features_[position].name == name) {
      MergedFeature &feature = features_[position];
      return feature.kind == kind ? &feature : nullptr;
    }
    const auto [entry, is_new] = places_.try_emplace(name, features_.size());
    if (!is_new) {
      MergedFeature &feature = features_[entry->second];
      return feature.kind == kind ? &feature : nullptr;
    }
    if (size_ > 0) {
      places_.erase(entry);
      return nullptr;
    }
    features_.emplace_back();
    features_.back().name = name;
    features_.back().kind = kind;
    return &features_.back();
  }

  bool append(MergedFeature &feature, Span values) {
    std::size_t count = 0;
    bool is_small = true;
    if (feature.kind == Kind::floats) {
      count = values.size() / 4;
    } else if (feature.kind == Kind::integers) {
      if (!count_integers(values, count, is_small)) return false;
    } else if (feature.kind == Kind::bytes) {
      if (!byte_strings(values, [&](Span) { ++count; })) return false;
    }
    if (size_ > 0 && (count == 0) != (feature.total == 0)) return false;
    feature.values.push_back(values);
    feature.counts.push_back(static_cast<std::int64_t>(count));
    feature.total += count;
    feature.is_small &= is_small;
    return true;
  }

  std::vector<MergedFeature> features_;  // in the order of the first record
  std::unordered_map<std::string_view, std::size_t> places_;
  std::size_t size_ = 0;
};

// Writes the floats of a feature, `total` of them.
inline void read_floats(const MergedFeature &feature, float *out) {
  for (const Span values : feature.values) {
    if (values.size()) std::memcpy(out, values.data, values.size());
    out += values.size() / 4;
  }
}

// Writes its integers.
inline void read_integers(const MergedFeature &feature, std::int64_t *out) {
  for (std::size_t i = 0; i < feature.values.size(); ++i) {
    read_integers(feature.values[i], out);
    out += feature.counts[i];
  }
}

// Writes its integers, which are small.
inline void read_small_integers(const MergedFeature &feature, std::uint8_t *out) {
  for (const Span values : feature.values) {
    if (values.size()) std::memcpy(out, values.data, values.size());
    out += values.size();
  }
}

// Its byte strings, each told to `take(Span)`.
template <typename Take> void read_strings(const MergedFeature &feature, Take &&take) {
  for (const Span values : feature.values)
    byte_strings(values, take);
}

}  // namespace rl
