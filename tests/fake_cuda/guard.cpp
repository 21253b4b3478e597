// What a build of torch without CUDA lacks for tensors that only say that they are on a CUDA device: a guard of the
// device for autograd, and hooks by which an accelerator is found. Nothing here computes.

#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace {

struct Guard final : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
  c10::Device getDevice() const override { return {c10::DeviceType::CUDA, 0}; }
  c10::Device exchangeDevice(c10::Device) const override { return getDevice(); }
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, getDevice());
  }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return getStream(getDevice()); }
};

struct Hooks final : at::CUDAHooksInterface {
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return false; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex current_device() const override { return 0; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  int getNumGPUs() const override { return 1; }
};

const c10::impl::DeviceGuardImplRegistrar registrar(c10::DeviceType::CUDA, new Guard());

}  // namespace

// Exchange the tables of functions of torch's hooks and of these. Torch made its own when it was imported, before
// anything can be registered; neither has members, so that nothing but the table tells them apart.
extern "C" void exchange_hooks() {
  static Hooks hooks;
  auto& own = const_cast<at::CUDAHooksInterface&>(at::detail::getCUDAHooks());
  std::swap(*reinterpret_cast<void**>(&own), *reinterpret_cast<void**>(&hooks));
}
