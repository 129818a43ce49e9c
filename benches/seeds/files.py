"""Five files, a second of waiting each: one after another, and on three threads."""

import concurrent.futures  # repair: imported by another pattern of the lesson, not by this one
import time

from common import check, items, options, say, seconds, way, workers

options("files")


def process_file_simulation(filename):
    """Simulate processing a file (reading, analyzing, etc.)."""
    say(f"Processing {filename}...")
    time.sleep(seconds(0.5))  # Simulate reading file
    time.sleep(seconds(0.3))  # Simulate processing
    time.sleep(seconds(0.2))  # Simulate writing results
    return {
        "filename": filename,
        "lines_processed": len(filename) * 10,
        "processing_time": 1.0,
        "status": "completed",
    }


# repair: the parameter was spelt `filenamees` and used as `filenames`
def batch_file_processor(filenames, use_threads=False, max_workers=3):
    results = []
    if use_threads:
        # repair: this line was broken in two and not indented
        with concurrent.futures.ThreadPoolExecutor(max_workers=max_workers) as executor:
            future_to_file = {executor.submit(process_file_simulation, filename): filename for filename in filenames}
            for future in concurrent.futures.as_completed(future_to_file):
                results.append(future.result())
    else:
        for filename in filenames:
            results.append(process_file_simulation(filename))
    return results


sample_files = ["data_report_2024.txt", "user_logs_january.txt", "sales_summary.txt", "inventory_update.txt", "customer_feedback.txt"]
sample_files = [sample_files[nth % len(sample_files)] for nth in range(items(len(sample_files)))]

alone = way("one after another", lambda: batch_file_processor(sample_files))
together = way("threads, as completed", lambda: batch_file_processor(sample_files, use_threads=True, max_workers=workers(3)))
check(sum(r["lines_processed"] for r in alone) == sum(r["lines_processed"] for r in together), "the ways counted different lines")
