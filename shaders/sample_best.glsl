// The largest of some numbers and its id, the lowest among equals.
//
// The includer has the constant THREADS, the size of its workgroup.

const uint NOBODY = 0xFFFFFFFFu;  // the id where there is no number

struct Best {
  float number;
  uint id;
};

shared float best_numbers[THREADS];
shared uint best_ids[THREADS];

Best better(Best a, Best b) {
  const bool first = b.id == NOBODY || a.number > b.number || (a.number == b.number && a.id < b.id);
  return a.id != NOBODY && first ? a : b;
}

// The best of all invocations, for all of them.
Best workgroup_best(Best mine) {
  const uint thread = gl_LocalInvocationIndex;
  barrier();
  best_numbers[thread] = mine.number;
  best_ids[thread] = mine.id;
  barrier();
  for (uint reach = THREADS / 2; reach > 0; reach /= 2) {
    if (thread < reach) {
      const Best here = Best(best_numbers[thread], best_ids[thread]);
      const Best there = Best(best_numbers[thread + reach], best_ids[thread + reach]);
      const Best both = better(here, there);
      best_numbers[thread] = both.number;
      best_ids[thread] = both.id;
    }
    barrier();
  }
  return Best(best_numbers[0], best_ids[0]);
}
