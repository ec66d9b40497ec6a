// The Python module splatseg._C. Importing it runs the static registrations of every TORCH_LIBRARY_FRAGMENT beside it; the
// ops are then reached as torch.ops.splatseg.*. It exports what only the build knows.
#include <Python.h>

#include "cpu/dispatch.h"

namespace {

PyObject* isa(PyObject*, PyObject*) {
  static const char* const names[] = {"baseline", "avx2", "avx512"};
  return PyUnicode_FromString(names[static_cast<int>(splatseg::active_isa())]);
}

PyObject* has_cuda(PyObject*, PyObject*) {
#ifdef SPLATSEG_WITH_CUDA
  Py_RETURN_TRUE;
#else
  Py_RETURN_FALSE;
#endif
}

// What setup.py found in the sources; see splatseg/ops/sources.py.
#ifndef SPLATSEG_SOURCES
#define SPLATSEG_SOURCES ""
#endif
PyObject* sources(PyObject*, PyObject*) { return PyUnicode_FromString(SPLATSEG_SOURCES); }

PyMethodDef methods[] = {
    {"isa", isa, METH_NOARGS, "Instruction set that the CPU kernels use: 'baseline', 'avx2' or 'avx512'."},
    {"has_cuda", has_cuda, METH_NOARGS, "Whether the CUDA kernels were compiled in."},
    {"sources", sources, METH_NOARGS, "Digest of the C++ and CUDA sources that this was built from."},
    {nullptr, nullptr, 0, nullptr},
};

PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

extern "C" PyObject* PyInit__C() { return PyModule_Create(&module); }
