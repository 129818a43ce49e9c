// Confluent's Parallel Consumer as a member of a group, for the tests of taking over from it and giving back to it.
// usage: Member BOOTSTRAP TOPIC GROUP ORDER(KEY|UNORDERED) LEDGER STOP_AFTER FAIL_EVERY
// A line "partition offset" is added to LEDGER for each record that is done. After STOP_AFTER of them it closes as an application does that is
// told to end. Each FAIL_EVERY-th offset fails (0: none), so that it is not done while those behind it are.
import io.confluent.parallelconsumer.ParallelConsumerOptions;
import io.confluent.parallelconsumer.ParallelStreamProcessor;
import java.io.FileWriter;
import java.io.PrintWriter;
import java.util.HashMap;
import java.util.List;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.ThreadLocalRandom;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.common.serialization.StringDeserializer;

public class Member {
    public static void main(String[] given) throws Exception {
        var settings = new HashMap<String, Object>();
        settings.put("bootstrap.servers", given[0]);
        settings.put("group.id", given[2]);
        settings.put("auto.offset.reset", "earliest");
        settings.put("enable.auto.commit", "false");
        var consumer = new KafkaConsumer<>(settings, new StringDeserializer(), new StringDeserializer());
        var order = ParallelConsumerOptions.ProcessingOrder.valueOf(given[3]);
        var ledger = new PrintWriter(new FileWriter(given[4], true), true);
        var left = new CountDownLatch(Integer.parseInt(given[5]));
        int failEvery = Integer.parseInt(given[6]);
        var options = ParallelConsumerOptions.<String, String>builder().ordering(order).maxConcurrency(50).consumer(consumer).build();
        var parallel = ParallelStreamProcessor.createEosStreamProcessor(options);
        parallel.subscribe(List.of(given[1]));
        parallel.poll(context -> {
            var record = context.getSingleConsumerRecord();
            if (failEvery > 0 && record.offset() % failEvery == failEvery / 2) throw new IllegalStateException("this one fails");
            try {
                Thread.sleep(ThreadLocalRandom.current().nextInt(3));
            } catch (InterruptedException ended) {
                throw new IllegalStateException(ended);
            }
            synchronized (ledger) {
                ledger.println(record.partition() + " " + record.offset());
            }
            left.countDown();
        });
        left.await();
        parallel.closeDontDrainFirst();
        System.exit(0);
    }
}
