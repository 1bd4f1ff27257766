// Included by c10d, which uses nothing of it in the declarations that we compile.
#pragma once
