// Memory for large tables that are read at random: huge pages where the system has them, so that an access costs one
// cache miss and not a walk through page tables as well.
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <new>

namespace rl {

template <class T> struct HugePages {
  using value_type = T;

  HugePages() = default;
  template <class Other> HugePages(const HugePages<Other> &) noexcept {}

  T *allocate(std::size_t count) {
    const std::size_t bytes = count * sizeof(T);
    const std::size_t alignment = bytes >= kHuge ? kHuge : kLine;
    void *memory = std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment);
    if (memory == nullptr) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
    if (bytes >= kHuge) madvise(memory, bytes, MADV_HUGEPAGE);  // only a wish
#endif
    return static_cast<T *>(memory);
  }

  void deallocate(T *memory, std::size_t) noexcept { std::free(memory); }

  friend bool operator==(const HugePages &, const HugePages &) noexcept { return true; }
  friend bool operator!=(const HugePages &, const HugePages &) noexcept { return false; }

private:
  static constexpr std::size_t kHuge = std::size_t{2} << 20, kLine = 64;
};

}  // namespace rl
