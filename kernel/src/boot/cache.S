// Data-cache maintenance by virtual address (or physical, with the MMU off) to
// the point of coherency. Used while the caches are off: by head.S, and by
// early.rs through arch::cache.
//   In:  x0 = start, x1 = end (rounded out to cache lines). Clobbers x0, x2, x3.

.section .head.text, "ax"

.macro dcache_by_line, op
	mrs	x2, ctr_el0
	ubfx	x2, x2, #16, #4		// DminLine: log2 of words in the smallest line
	mov	x3, #4
	lsl	x2, x3, x2		// bytes
	sub	x3, x2, #1
	bic	x0, x0, x3
	dmb	sy			// earlier accesses, done uncached, before the op
	cmp	x0, x1
	b.hs	2f
1:	dc	\op, x0
	add	x0, x0, x2
	cmp	x0, x1
	b.lo	1b
2:	dsb	sy			// complete before the caller goes on
	ret
.endm

// For what the caches must not hold as it was: data they would lose is stale.
.global dcache_inval_poc
.type dcache_inval_poc, %function
dcache_inval_poc:
	dcache_by_line ivac
.size dcache_inval_poc, . - dcache_inval_poc

// For memory that somebody else wrote cached, before it is written uncached.
.global dcache_clean_inval_poc
.type dcache_clean_inval_poc, %function
dcache_clean_inval_poc:
	dcache_by_line civac
.size dcache_clean_inval_poc, . - dcache_clean_inval_poc

// For memory that somebody else wrote cached, before it is read uncached.
.global dcache_clean_poc
.type dcache_clean_poc, %function
dcache_clean_poc:
	dcache_by_line cvac
.size dcache_clean_poc, . - dcache_clean_poc
