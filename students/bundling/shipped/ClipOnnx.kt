// A bundle's ONNX towers on Android. build.gradle:
//   implementation("com.microsoft.onnxruntime:onnxruntime-android:latest.release")
// Put the bundle's files into assets/. words.py says how a text becomes token ids: port it, or
// use labels.json with labels.f32, whose vectors are made already.

import ai.onnxruntime.OnnxTensor
import ai.onnxruntime.OrtEnvironment
import ai.onnxruntime.OrtSession
import android.content.Context
import android.graphics.Bitmap
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.nio.FloatBuffer
import java.nio.LongBuffer
import kotlin.math.exp
import org.json.JSONObject

class Clip(private val context: Context) {
    private val environment = OrtEnvironment.getEnvironment()
    private val facts = JSONObject(text("metadata.json"))
    private val feeding = JSONObject(text("preprocessing.json"))
    private val image = open("image")
    private val words by lazy { open("text") }

    fun embed(picture: Bitmap): FloatArray {
        val size = feeding.getInt("image_size")
        // Bitmap's own filter is close to, not equal to, the one the student was trained with:
        // resize.js has that one in 40 lines. Shortest side to `size`, then the centre.
        val side = minOf(picture.width, picture.height)
        val square = Bitmap.createBitmap(
            picture, (picture.width - side) / 2, (picture.height - side) / 2, side, side)
        val small = Bitmap.createScaledBitmap(square, size, size, true)
        val argb = IntArray(size * size)
        small.getPixels(argb, 0, size, 0, 0, size, size)
        val pixels = FloatBuffer.allocate(3 * size * size)
        for (channel in 0..2) {
            val mean = 255 * feeding.getJSONArray("mean").getDouble(channel).toFloat()
            val std = 255 * feeding.getJSONArray("std").getDouble(channel).toFloat()
            for (colour in argb) {
                pixels.put(((colour shr (16 - 8 * channel) and 0xff) - mean) / std)
            }
        }
        pixels.rewind()
        val shape = longArrayOf(1, 3, size.toLong(), size.toLong())
        return run(image, "image", OnnxTensor.createTensor(environment, pixels, shape))
    }

    fun embed(tokens: LongArray): FloatArray {
        val shape = longArrayOf(1, tokens.size.toLong())
        return run(words, "text", OnnxTensor.createTensor(environment, LongBuffer.wrap(tokens), shape))
    }

    fun labels(): List<Pair<String, FloatArray>> {
        val labels = JSONObject(text("labels.json"))
        val width = labels.getJSONArray("shape").getInt(1)
        val bytes = context.assets.open(labels.getString("rows")).readBytes()
        val rows = ByteBuffer.wrap(bytes).order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer()
        return List(labels.getJSONArray("labels").length()) { i ->
            val row = FloatArray(width).also { rows.get(it) }
            labels.getJSONArray("labels").getString(i) to row
        }
    }

    /** Probabilities over all texts; of a "sigmoid" student take 1 / (1 + exp(-(logit + bias))). */
    fun scores(picture: FloatArray, texts: List<FloatArray>): List<Double> {
        val scale = facts.getDouble("logit_scale")
        val logits = texts.map { text -> scale * text.indices.sumOf { (text[it] * picture[it]).toDouble() } }
        val shares = logits.map { exp(it - logits.max()) }
        return shares.map { it / shares.sum() }
    }

    private fun run(session: OrtSession, tower: String, input: OnnxTensor): FloatArray = input.use {
        val name = facts.getJSONObject("towers").getJSONObject(tower).getString("input")
        session.run(mapOf(name to it)).use { made ->
            @Suppress("UNCHECKED_CAST")
            (made[0].value as Array<FloatArray>)[0]
        }
    }

    private fun open(tower: String): OrtSession {
        val file = facts.getJSONObject("towers").getJSONObject(tower).getString("file")
        return environment.createSession(context.assets.open(file).readBytes())
    }

    private fun text(name: String) = context.assets.open(name).bufferedReader().use { it.readText() }
}
