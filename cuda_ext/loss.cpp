// splatseg::hierarchical_contrastive_loss, splatseg::votes, splatseg::levels: schemas and the checks that devices share.
#include "loss_checks.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/library.h>

namespace splatseg {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Table = std::optional<at::Tensor>;

bool is_integer(const at::Tensor& t) { return t.scalar_type() == at::kInt || t.scalar_type() == at::kLong; }

// The op on the device of its arguments, below autograd.
std::tuple<at::Tensor, at::Tensor> loss_below_autograd(const at::Tensor& features, const at::Tensor& patch,
                                                       const Table& votes, const Table& membership, double phi_min,
                                                       double phi_max, double phi_scale, double level_decay,
                                                       int64_t min_pixels, double weight, bool deterministic,
                                                       bool with_grad) {
  static const auto op = c10::Dispatcher::singleton()
                             .findSchemaOrThrow("splatseg::hierarchical_contrastive_loss", "")
                             .typed<decltype(loss_below_autograd)>();
  const at::AutoDispatchBelowADInplaceOrView guard;
  return op.call(features, patch, votes, membership, phi_min, phi_max, phi_scale, level_decay, min_pixels, weight,
                 deterministic, with_grad);
}

// The op's second result is the gradient that the backward pass scales. In C++, as both passes together take half a
// millisecond, of which an autograd function in Python would be a third.
class Differentiable : public torch::autograd::Function<Differentiable> {
 public:
  template <class... Constants>
  static variable_list forward(AutogradContext* context, const at::Tensor& features, const at::Tensor& patch,
                               const Table& votes, const Table& membership, Constants... constants) {
    const auto [loss, grad] = loss_below_autograd(features, patch, votes, membership, constants...);
    context->mark_non_differentiable({grad});
    context->save_for_backward({grad});
    return {loss, grad};
  }
  static variable_list backward(AutogradContext* context, variable_list grads) {
    variable_list result(12);  // one an argument of the op
    result[0] = context->get_saved_variables()[0] * grads[0];
    return result;
  }
};

std::tuple<at::Tensor, at::Tensor> loss_autograd(const at::Tensor& features, const at::Tensor& patch, const Table& votes,
                                                 const Table& membership, double phi_min, double phi_max,
                                                 double phi_scale, double level_decay, int64_t min_pixels, double weight,
                                                 bool deterministic, bool with_grad) {
  if (!features.requires_grad() || !at::GradMode::is_enabled()) {
    return loss_below_autograd(features, patch, votes, membership, phi_min, phi_max, phi_scale, level_decay, min_pixels,
                               weight, deterministic, with_grad);
  }
  const variable_list found = Differentiable::apply(features, patch, votes, membership, phi_min, phi_max, phi_scale,
                                                    level_decay, min_pixels, weight, deterministic, with_grad);
  return {found[0], found[1]};
}

}  // namespace

void check_loss(const at::Tensor& features, const at::Tensor& patch, const std::optional<at::Tensor>& votes,
                const std::optional<at::Tensor>& membership, const LossScalars& s) {
  TORCH_CHECK(features.dim() == 2 && features.size(1) >= 1, "features: expected shape (n, d), found ", features.sizes());
  TORCH_CHECK(features.scalar_type() == at::kFloat || features.scalar_type() == at::kDouble,
              "features: expected float32 or float64, found ", features.scalar_type());
  TORCH_CHECK(features.size(0) < INT32_MAX, "features: expected fewer than 2^31 - 1 rows, found ", features.size(0));
  TORCH_CHECK(patch.dim() == 1 && patch.size(0) == features.size(0), "patch: expected shape (n=", features.size(0),
              ",), found ", patch.sizes());
  TORCH_CHECK(is_integer(patch), "patch: expected int32 or int64, found ", patch.scalar_type());
  TORCH_CHECK(votes.has_value() != membership.has_value(), "votes, membership: expected exactly one of them");
  const at::Tensor& table = votes ? *votes : *membership;
  TORCH_CHECK(patch.device() == features.device() && table.device() == features.device(),
              "patch, votes, membership: expected the device of features, ", features.device());
  if (votes) {
    TORCH_CHECK(votes->dim() == 2 && votes->size(0) == votes->size(1), "votes: expected shape (p, p), found ", votes->sizes());
    TORCH_CHECK(is_integer(*votes), "votes: expected int32 or int64, found ", votes->scalar_type());
  } else {
    TORCH_CHECK(membership->dim() == 2, "membership: expected shape (p, words), found ", membership->sizes());
    TORCH_CHECK(membership->scalar_type() == at::kLong, "membership: expected int64, found ", membership->scalar_type());
  }
  TORCH_CHECK(0 < s.phi_min && s.phi_min <= s.phi_max, "phi_min, phi_max: expected 0 < phi_min <= phi_max, found ", s.phi_min,
              " and ", s.phi_max);
  TORCH_CHECK(s.level_decay >= 0, "level_decay: expected at least 0, found ", s.level_decay);
  TORCH_CHECK(s.min_pixels >= 1, "min_pixels: expected at least 1, found ", s.min_pixels);
}

void check_votes(const at::Tensor& membership, const at::Tensor& ids) {
  TORCH_CHECK(membership.dim() == 2 && membership.scalar_type() == at::kLong,
              "membership: expected int64 of shape (p, words), found ", membership.scalar_type(), " ", membership.sizes());
  TORCH_CHECK(ids.dim() == 1 && is_integer(ids), "ids: expected int32 or int64 of shape (k,), found ", ids.scalar_type(), " ",
              ids.sizes());
}

void check_levels(const at::Tensor& votes) {
  TORCH_CHECK(votes.dim() == 2 && votes.size(0) == votes.size(1) && is_integer(votes),
              "votes: expected int32 or int64 of shape (k, k), found ", votes.scalar_type(), " ", votes.sizes());
}

}  // namespace splatseg

TORCH_LIBRARY_FRAGMENT(splatseg, m) {
  m.def(
      "hierarchical_contrastive_loss(Tensor features, Tensor patch, Tensor? votes, Tensor? membership, float phi_min, "
      "float phi_max, float phi_scale, float level_decay, int min_pixels, float weight, bool deterministic, "
      "bool with_grad) -> (Tensor loss, Tensor grad)",
      {at::Tag::pt2_compliant_tag});
  m.def("votes(Tensor membership, Tensor ids) -> Tensor", {at::Tag::pt2_compliant_tag});
  m.def("levels(Tensor votes) -> Tensor", {at::Tag::pt2_compliant_tag});
}

TORCH_LIBRARY_IMPL(splatseg, Autograd, m) { m.impl("hierarchical_contrastive_loss", splatseg::kernel<splatseg::LossOp>(splatseg::loss_autograd)); }
